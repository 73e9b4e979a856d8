//! The sub paths that containers mount of a volume: found in the spec, expressions expanded. Pure.

use imagevol_api::corev1::{Container, EnvVar, EphemeralContainer, Pod, VolumeMount};
use imagevol_api::names::{ContainerName, VolumeName};
use imagevol_base::volumes::SubPathError;
use imagevol_mount::SubPath;

mod variables;

use variables::{Variables, expand};

/// Waiting reason of a container whose pod asks for what cannot be (kuberuntime_container.go, `ErrCreateContainerConfig`).
const CREATE_CONTAINER_CONFIG_ERROR: &str = "CreateContainerConfigError";

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
#[derive(Clone, Copy)]
struct AnyContainer<'a> {
    name: &'a str,
    mounts: &'a [VolumeMount],
    env: &'a [EnvVar],
}

/// Every mount of a sub path of `volume` in the pod, in the order of the spec.
pub fn sub_path_mounts(pod: &Pod, volume: &VolumeName) -> Vec<SubPathMount> {
    containers(pod).flat_map(|container| mounts_of(pod, container, volume)).collect()
}

/// The first container that mounts the volume, in the kubelet's order: init containers, then containers, then ephemeral ones.
pub fn first_container_of<'a>(pod: &'a Pod, volume: &VolumeName) -> Option<&'a str> {
    let mut containers = containers(pod);
    let mounts = |container: &AnyContainer<'_>| container.mounts.iter().any(|mount| mount.name == volume.as_str());
    containers.find(mounts).map(|container| container.name)
}

fn mounts_of(pod: &Pod, container: AnyContainer<'_>, volume: &VolumeName) -> Vec<SubPathMount> {
    let Ok(name) = container.name.parse::<ContainerName>() else { return Vec::new() };
    let of_volume = container.mounts.iter().enumerate().filter(|(_, mount)| mount.name == volume.as_str());
    let mount = |(index, mount): (usize, &VolumeMount)| {
        let sub_path = wanted(mount, pod, container.env)?;
        Some(SubPathMount { container: name.clone(), index: u32::try_from(index).ok()?, sub_path })
    };
    of_volume.filter_map(mount).collect()
}

/// `None` if the whole volume is mounted.
fn wanted(mount: &VolumeMount, pod: &Pod, env: &[EnvVar]) -> Option<Result<SubPath, SubPathError>> {
    let expression = mount.sub_path_expr.as_deref().filter(|expression| !expression.is_empty());
    let literal = mount.sub_path.as_deref().filter(|path| !path.is_empty());
    let text = match (expression, literal) {
        (Some(expression), _) => expanded(expression, &Variables::of(pod, env)),
        (None, Some(path)) => Ok(path.to_owned()),
        (None, None) => return None,
    };
    let parse = |text: String| SubPath::parse(&text).map_err(|error| at_fault(refused(&text, error)));
    Some(text.and_then(parse))
}

/// A variable that the container does not have, or that is empty, is an error, unlike in arguments
/// (pkg/kubelet/container/helpers.go, `ExpandContainerVolumeMounts`).
fn expanded(expression: &str, variables: &Variables<'_>) -> Result<String, SubPathError> {
    let (mut missing, mut unknown) = (Vec::new(), None);
    let text = expand(expression, |name| match variables.value(name) {
        Some(Ok(value)) if !value.is_empty() => value.to_owned(),
        Some(Err(why)) => {
            unknown.get_or_insert_with(|| format!("value of {name:?} is not known: {why}"));
            String::new()
        }
        Some(Ok(_)) | None => {
            missing.push(name.to_owned());
            String::new()
        }
    });
    missing.sort();
    missing.dedup();
    match unknown {
        _ if !missing.is_empty() => Err(at_fault(format!("missing value for {}", missing.join(", ")))),
        Some(why) => Err(at_fault(why)),
        None => Ok(text),
    }
}

/// (pkg/kubelet/kubelet_pods.go, `makeMounts`.)
fn refused(text: &str, error: imagevol_mount::SubPathError) -> String {
    format!("unable to provision SubPath `{}`: {error}", text.escape_debug())
}

fn at_fault(message: String) -> SubPathError {
    SubPathError { reason: CREATE_CONTAINER_CONFIG_ERROR, message }
}

fn containers(pod: &Pod) -> impl Iterator<Item = AnyContainer<'_>> {
    let spec = pod.spec.iter();
    let init = spec.clone().flat_map(|spec| spec.init_containers.iter().flatten()).map(AnyContainer::from);
    let main = spec.clone().flat_map(|spec| &spec.containers).map(AnyContainer::from);
    let ephemeral = spec.flat_map(|spec| spec.ephemeral_containers.iter().flatten()).map(AnyContainer::from);
    init.chain(main).chain(ephemeral)
}

// === impl AnyContainer ===

impl<'a> From<&'a Container> for AnyContainer<'a> {
    fn from(container: &'a Container) -> Self {
        let mounts = container.volume_mounts.as_deref().unwrap_or_default();
        Self { name: &container.name, mounts, env: container.env.as_deref().unwrap_or_default() }
    }
}

impl<'a> From<&'a EphemeralContainer> for AnyContainer<'a> {
    fn from(container: &'a EphemeralContainer) -> Self {
        let mounts = container.volume_mounts.as_deref().unwrap_or_default();
        Self { name: &container.name, mounts, env: container.env.as_deref().unwrap_or_default() }
    }
}

#[cfg(test)]
mod tests;
