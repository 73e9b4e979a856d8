{{- define "imagevol.labels" -}}
app.kubernetes.io/name: imagevol
app.kubernetes.io/component: {{ .component }}
app.kubernetes.io/part-of: imagevol
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "imagevol.selector" -}}
app.kubernetes.io/name: imagevol
app.kubernetes.io/component: node
{{- end }}

{{- define "imagevol.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "imagevol.metricsAddress" -}}
{{- if .Values.metrics.address -}}
{{ .Values.metrics.address }}
{{- else if .Values.monitoring.enabled -}}
$(HOST_IP):{{ .Values.metrics.port }}
{{- else -}}
127.0.0.1:{{ .Values.metrics.port }}
{{- end -}}
{{- end }}

{{/* The ImagevolConfiguration: the user's fields, and what other values imply. */}}
{{- define "imagevol.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- $_ := set $config "apiVersion" "imagevol.dev/v1alpha1" -}}
{{- $_ := set $config "kind" "ImagevolConfiguration" -}}
{{- if ne .Values.paths.kubelet "/var/lib/kubelet" -}}
{{- $_ := set $config "rootDir" .Values.paths.kubelet -}}
{{- end -}}
{{- if .Values.pullSecrets.enabled -}}
{{- $_ := set $config "kubernetes" (merge (dict "imagePullSecrets" true) ($config.kubernetes | default dict)) -}}
{{- end -}}
{{- with .Values.credentialProvider -}}
{{- if ne (empty .config) (empty .binDir) -}}
{{- fail "credentialProvider.config and credentialProvider.binDir are given together" -}}
{{- end -}}
{{- if .config -}}
{{- $_ := set $config "imageCredentialProviderConfig" .config -}}
{{- $_ := set $config "imageCredentialProviderBinDir" .binDir -}}
{{- end -}}
{{- end -}}
{{- toYaml $config -}}
{{- end }}

{{/* A probe asks loopback itself where the metrics are nowhere else. */}}
{{- define "imagevol.probe" -}}
httpGet:
  {{- if hasPrefix "127." (include "imagevol.metricsAddress" .root) }}
  host: 127.0.0.1
  {{- end }}
  path: {{ .path }}
  port: metrics
{{- end }}
