//! The sub paths that containers mount of a volume: found in the spec, expressions expanded. Pure.

use std::collections::BTreeMap;

use imagevol_api::corev1::{Container, EphemeralContainer, Pod, VolumeMount};
use imagevol_api::names::{ContainerName, VolumeName};
use imagevol_mount::SubPath;

use crate::plugin::SubPathError;

/// One mount of a sub path, as a container asks for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubPathMount {
    /// The container.
    pub container: ContainerName,
    /// Position in its `volumeMounts`.
    pub index: u32,
    /// The path inside the image, or why it cannot be told.
    pub sub_path: Result<SubPath, SubPathError>,
}

/// A container of any of the three kinds, by what counts here.
struct AnyContainer<'a> {
    name: &'a str,
    mounts: &'a [VolumeMount],
    variables: BTreeMap<&'a str, Result<String, String>>,
}

/// Every mount of a sub path of `volume` in the pod, in the order of the spec.
pub fn sub_path_mounts(pod: &Pod, volume: &VolumeName) -> Vec<SubPathMount> {
    containers(pod).iter().flat_map(|container| mounts_of(container, volume)).collect()
}

/// The first container that mounts the volume, in the kubelet's order: init containers, then containers, then ephemeral ones.
pub fn first_container_of<'a>(pod: &'a Pod, volume: &VolumeName) -> Option<&'a str> {
    let mounts = |container: &AnyContainer<'_>| container.mounts.iter().any(|mount| mount.name == volume.as_str());
    let position = containers(pod).iter().position(mounts)?;
    container_names(pod).into_iter().nth(position)
}

fn mounts_of(container: &AnyContainer<'_>, volume: &VolumeName) -> Vec<SubPathMount> {
    let Ok(name) = container.name.parse::<ContainerName>() else { return Vec::new() };
    let of_volume = container.mounts.iter().enumerate().filter(|(_, mount)| mount.name == volume.as_str());
    let mount = |(index, mount): (usize, &VolumeMount)| {
        let sub_path = wanted(mount, &container.variables)?;
        Some(SubPathMount { container: name.clone(), index: u32::try_from(index).ok()?, sub_path })
    };
    of_volume.filter_map(mount).collect()
}

/// `None` if the whole volume is mounted.
fn wanted(
    mount: &VolumeMount,
    variables: &BTreeMap<&str, Result<String, String>>,
) -> Option<Result<SubPath, SubPathError>> {
    let expression = mount.sub_path_expr.as_deref().filter(|expression| !expression.is_empty());
    let literal = mount.sub_path.as_deref().filter(|path| !path.is_empty());
    let text = match (expression, literal) {
        (Some(expression), _) => expand(expression, variables),
        (None, Some(path)) => Ok(path.to_owned()),
        (None, None) => return None,
    };
    Some(text.and_then(|text| SubPath::parse(&text).map_err(|error| at_fault(&text, &error.to_string()))))
}

fn at_fault(text: &str, why: &str) -> SubPathError {
    let message = format!("unable to provision SubPath `{}`: {why}", text.escape_default());
    SubPathError { reason: "CreateContainerConfigError", message }
}

/// `$(NAME)` is the variable's value, `$$` a dollar sign (Kubernetes, third_party/forked/golang/expansion). A variable that the
/// container does not have is an error here, unlike in arguments (pkg/kubelet/container/helpers.go, `ExpandContainerVolumeMounts`).
fn expand(expression: &str, variables: &BTreeMap<&str, Result<String, String>>) -> Result<String, SubPathError> {
    let mut out = String::new();
    let mut rest = expression;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = after.strip_prefix('(').and_then(|after| after.split_once(')')) {
            out.push_str(&value_of(name, expression, variables)?);
            rest = after;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    Ok(out)
}

fn value_of(
    name: &str,
    expression: &str,
    variables: &BTreeMap<&str, Result<String, String>>,
) -> Result<String, SubPathError> {
    match variables.get(name) {
        Some(Ok(value)) => Ok(value.clone()),
        Some(Err(why)) => Err(at_fault(expression, why)),
        None => {
            let message = format!("missing value for {:?}", name);
            Err(at_fault(expression, &message))
        }
    }
}

fn containers(pod: &Pod) -> Vec<AnyContainer<'_>> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let init = spec.init_containers.iter().flatten().map(|container| of_container(pod, container));
    let main = spec.containers.iter().map(|container| of_container(pod, container));
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(|container| of_ephemeral(pod, container));
    init.chain(main).chain(ephemeral).collect()
}

fn container_names(pod: &Pod) -> Vec<&str> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let init = spec.init_containers.iter().flatten().chain(&spec.containers).map(|container| container.name.as_str());
    init.chain(spec.ephemeral_containers.iter().flatten().map(|container| container.name.as_str())).collect()
}

fn of_container<'a>(pod: &Pod, container: &'a Container) -> AnyContainer<'a> {
    let mounts = container.volume_mounts.as_deref().unwrap_or_default();
    let variables = variables(pod, container.env.as_deref().unwrap_or_default());
    AnyContainer { name: &container.name, mounts, variables }
}

fn of_ephemeral<'a>(pod: &Pod, container: &'a EphemeralContainer) -> AnyContainer<'a> {
    let mounts = container.volume_mounts.as_deref().unwrap_or_default();
    let variables = variables(pod, container.env.as_deref().unwrap_or_default());
    AnyContainer { name: &container.name, mounts, variables }
}

/// Variables whose value is known without asking anybody: literals, and fields of the pod.
fn variables<'a>(pod: &Pod, env: &'a [imagevol_api::corev1::EnvVar]) -> BTreeMap<&'a str, Result<String, String>> {
    let mut known: BTreeMap<&str, Result<String, String>> = BTreeMap::new();
    for variable in env {
        let field =
            variable.value_from.as_ref().map(|from| from.field_ref.as_ref().map(|field| field.field_path.as_str()));
        let value = match field {
            None => {
                let literal = variable.value.as_deref().unwrap_or_default();
                // Earlier variables may be used in later ones; others stay as written.
                Ok(expand(literal, &known).unwrap_or_else(|_| literal.to_owned()))
            }
            Some(Some(path)) => field_of(pod, path).ok_or_else(|| format!("field {path:?} has no value on this node")),
            Some(None) => Err("its value comes from an object that is not at hand on this node".to_owned()),
        };
        known.insert(&variable.name, value);
    }
    known
}

/// The pod fields that the downward API gives to variables (core/v1, `EnvVarSource.fieldRef`) and that are known here.
fn field_of(pod: &Pod, path: &str) -> Option<String> {
    let (metadata, spec) = (&pod.metadata, pod.spec.as_ref());
    match path {
        "metadata.name" => metadata.name.clone(),
        "metadata.namespace" => metadata.namespace.clone(),
        "metadata.uid" => metadata.uid.clone(),
        "spec.nodeName" => spec?.node_name.clone(),
        "spec.serviceAccountName" => spec?.service_account_name.clone(),
        other => {
            let (map, key) = other.strip_suffix("']")?.split_once("['")?;
            let values = match map {
                "metadata.labels" => metadata.labels.as_ref(),
                "metadata.annotations" => metadata.annotations.as_ref(),
                _ => None,
            };
            values?.get(key).cloned()
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn pod(mount: &str) -> Pod {
        let env = r#"[{"name":"A","value":"one"},{"name":"B","value":"$(A)-two"},
            {"name":"POD","valueFrom":{"fieldRef":{"fieldPath":"metadata.name"}}},
            {"name":"L","valueFrom":{"fieldRef":{"fieldPath":"metadata.labels['x']"}}},
            {"name":"S","valueFrom":{"secretKeyRef":{"name":"s","key":"k"}}}]"#;
        let text = format!(
            r#"{{"metadata":{{"name":"p","labels":{{"x":"y"}}}},"spec":{{"containers":[
            {{"name":"other"}},{{"name":"c","env":{env},"volumeMounts":[{{"name":"v","mountPath":"/whole"}},{mount}]}}]}}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    fn wanted_of(pod: &Pod) -> Vec<SubPathMount> {
        sub_path_mounts(pod, &"v".parse().unwrap())
    }

    #[rstest]
    #[case(r#""subPath":"a/b""#, "a/b")]
    #[case(r#""subPathExpr":"$(A)""#, "one")]
    #[case(r#""subPathExpr":"$(B)/$(POD)/$(L)""#, "one-two/p/y")]
    #[case(r#""subPathExpr":"$$(A)$x""#, "$(A)$x")]
    fn finds_and_expands(#[case] field: &str, #[case] expected: &str) {
        let pod = pod(&format!(r#"{{"name":"v","mountPath":"/m",{field}}}"#));
        let mounts = wanted_of(&pod);
        assert_eq!(mounts.len(), 1, "the whole volume is no sub path");
        assert_eq!((mounts[0].container.as_str(), mounts[0].index), ("c", 1));
        assert_eq!(mounts[0].sub_path.as_ref().unwrap().as_str(), expected);
    }

    #[rstest]
    #[case(r#""subPathExpr":"$(NONE)""#)]
    #[case(r#""subPathExpr":"$(S)""#)]
    #[case(r#""subPathExpr":"/$(A)""#)]
    #[case(r#""subPathExpr":"$(A)/../..""#)]
    fn says_when_the_pod_is_at_fault(#[case] field: &str) {
        let pod = pod(&format!(r#"{{"name":"v","mountPath":"/m",{field}}}"#));
        let error = wanted_of(&pod).remove(0).sub_path.unwrap_err();
        assert_eq!(error.reason, "CreateContainerConfigError");
        assert!(error.message.starts_with("unable to provision SubPath `"), "{}", error.message);
    }

    #[test]
    fn the_first_container_that_mounts_it_is_found() {
        let pod = pod(r#"{"name":"w","mountPath":"/m"}"#);
        assert_eq!(first_container_of(&pod, &"w".parse().unwrap()), Some("c"));
        assert_eq!(first_container_of(&pod, &"unused".parse().unwrap()), None);
    }
}
