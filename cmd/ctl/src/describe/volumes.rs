//! The block of volumes. Image volumes and those of every pod's manifest are as kubectl shows them; types that take a storage
//! system, which a node without a cluster never mounts, are shown by their name only.

use imagevol_api::corev1::{
    CSIVolumeSource, ConfigMapVolumeSource, DownwardAPIVolumeSource, EmptyDirVolumeSource, HostPathVolumeSource,
    ImageVolumeSource, NFSVolumeSource, PersistentVolumeClaimVolumeSource, ProjectedVolumeSource, SecretVolumeSource,
    Volume, VolumeProjection,
};

use super::{MAX_ANNOTATION_LEN, Sheet, shortened, text_of};

/// Indentation of a volume's fields.
const LEVEL: usize = 2;

/// All volumes in the order of the spec.
pub(super) fn all(sheet: &mut Sheet, volumes: &[Volume]) {
    if volumes.is_empty() {
        return sheet.field(0, "Volumes", "<none>");
    }
    sheet.line(0, "Volumes:");
    for volume in volumes {
        sheet.line(1, &format!("{}:", volume.name));
        source(sheet, volume);
    }
}

fn source(sheet: &mut Sheet, volume: &Volume) {
    match volume {
        Volume { image: Some(source), .. } => image(sheet, source),
        Volume { host_path: Some(source), .. } => host_path(sheet, source),
        Volume { empty_dir: Some(source), .. } => empty_dir(sheet, source),
        Volume { secret: Some(source), .. } => secret(sheet, source),
        Volume { config_map: Some(source), .. } => config_map(sheet, source),
        Volume { nfs: Some(source), .. } => nfs(sheet, source),
        Volume { persistent_volume_claim: Some(source), .. } => claim(sheet, source),
        Volume { projected: Some(source), .. } => projected(sheet, source),
        Volume { downward_api: Some(source), .. } => downward_api(sheet, source),
        Volume { csi: Some(source), .. } => csi(sheet, source),
        other => unknown(sheet, other),
    }
}

fn image(sheet: &mut Sheet, source: &ImageVolumeSource) {
    sheet.field(LEVEL, "Type", "Image (a container image or OCI artifact)");
    sheet.field(LEVEL, "Reference", text_of(source.reference.as_ref()));
    sheet.field(LEVEL, "PullPolicy", text_of(source.pull_policy.as_ref()));
}

fn host_path(sheet: &mut Sheet, source: &HostPathVolumeSource) {
    sheet.field(LEVEL, "Type", "HostPath (bare host directory volume)");
    sheet.field(LEVEL, "Path", &source.path);
    sheet.field(LEVEL, "HostPathType", source.type_.as_deref().unwrap_or("<none>"));
}

fn empty_dir(sheet: &mut Sheet, source: &EmptyDirVolumeSource) {
    sheet.field(LEVEL, "Type", "EmptyDir (a temporary directory that shares a pod's lifetime)");
    sheet.field(LEVEL, "Medium", text_of(source.medium.as_ref()));
    sheet.field(LEVEL, "SizeLimit", source.size_limit.as_ref().map_or("<unset>", |limit| limit.0.as_str()));
}

fn secret(sheet: &mut Sheet, source: &SecretVolumeSource) {
    sheet.field(LEVEL, "Type", "Secret (a volume populated by a Secret)");
    sheet.field(LEVEL, "SecretName", text_of(source.secret_name.as_ref()));
    sheet.field(LEVEL, "Optional", source.optional.unwrap_or_default());
}

fn config_map(sheet: &mut Sheet, source: &ConfigMapVolumeSource) {
    sheet.field(LEVEL, "Type", "ConfigMap (a volume populated by a ConfigMap)");
    sheet.field(LEVEL, "Name", &source.name);
    sheet.field(LEVEL, "Optional", source.optional.unwrap_or_default());
}

fn nfs(sheet: &mut Sheet, source: &NFSVolumeSource) {
    sheet.field(LEVEL, "Type", "NFS (an NFS mount that lasts the lifetime of a pod)");
    sheet.field(LEVEL, "Server", &source.server);
    sheet.field(LEVEL, "Path", &source.path);
    sheet.field(LEVEL, "ReadOnly", source.read_only.unwrap_or_default());
}

fn claim(sheet: &mut Sheet, source: &PersistentVolumeClaimVolumeSource) {
    sheet.field(LEVEL, "Type", "PersistentVolumeClaim (a reference to a PersistentVolumeClaim in the same namespace)");
    sheet.field(LEVEL, "ClaimName", &source.claim_name);
    sheet.field(LEVEL, "ReadOnly", source.read_only.unwrap_or_default());
}

fn projected(sheet: &mut Sheet, source: &ProjectedVolumeSource) {
    sheet.field(LEVEL, "Type", "Projected (a volume that contains injected data from multiple sources)");
    for projection in source.sources.iter().flatten() {
        project(sheet, projection);
    }
}

fn project(sheet: &mut Sheet, projection: &VolumeProjection) {
    if let Some(secret) = &projection.secret {
        sheet.field(LEVEL, "SecretName", &secret.name);
        sheet.field(LEVEL, "Optional", secret.optional.unwrap_or_default());
    } else if projection.downward_api.is_some() {
        sheet.field(LEVEL, "DownwardAPI", true);
    } else if let Some(map) = &projection.config_map {
        sheet.field(LEVEL, "ConfigMapName", &map.name);
        sheet.field(LEVEL, "Optional", map.optional.unwrap_or_default());
    } else if let Some(token) = &projection.service_account_token {
        sheet.optional(LEVEL, "TokenExpirationSeconds", token.expiration_seconds);
    }
}

fn downward_api(sheet: &mut Sheet, source: &DownwardAPIVolumeSource) {
    sheet.field(LEVEL, "Type", "DownwardAPI (a volume populated by information about the pod)");
    sheet.line(LEVEL, "Items:");
    for item in source.items.iter().flatten() {
        if let Some(field) = &item.field_ref {
            sheet.line(LEVEL + 1, &format!("{} -> {}", field.field_path, item.path));
        }
        if let Some(resource) = &item.resource_field_ref {
            sheet.line(LEVEL + 1, &format!("{} -> {}", resource.resource, item.path));
        }
    }
}

fn csi(sheet: &mut Sheet, source: &CSIVolumeSource) {
    sheet.field(LEVEL, "Type", "CSI (a Container Storage Interface (CSI) volume source)");
    sheet.field(LEVEL, "Driver", &source.driver);
    sheet.field(LEVEL, "FSType", text_of(source.fs_type.as_ref()));
    sheet.field(LEVEL, "ReadOnly", source.read_only.unwrap_or_default());
    let attributes = source.volume_attributes.iter().flatten();
    // kubectl indents these values once more.
    let indented = |(key, value)| format!("    {}", shortened(&format!("{key}={value}"), MAX_ANNOTATION_LEN));
    let lines: Vec<_> = attributes.map(indented).collect();
    sheet.values(LEVEL, "VolumeAttributes", &lines);
}

/// The type's own name: the one field besides the volume's name.
fn unknown(sheet: &mut Sheet, volume: &Volume) {
    let fields = serde_json::to_value(volume).unwrap_or_default();
    let key = fields.as_object().and_then(|fields| fields.keys().find(|key| *key != "name")).map(String::as_str);
    match key {
        Some(key) => sheet.field(LEVEL, "Type", capitalised(key)),
        None => sheet.line(1, "<unknown>"),
    }
}

fn capitalised(name: &str) -> String {
    let mut characters = name.chars();
    let first = characters.next().map(|first| first.to_ascii_uppercase());
    first.into_iter().chain(characters).collect()
}
