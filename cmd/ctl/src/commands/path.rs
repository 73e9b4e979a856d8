//! `path`: the directory of a volume, alone on its line, for scripts.

use imagevol_api::daemon::{PodSubPath, PodVolume, PodVolumes};

use crate::cli::PathOf;
use crate::error::{CommandError, Result};
use crate::session::{self, Session};
use crate::target::{Resource, Target};

/// Prints the path; fails where nothing is mounted yet, so that a script does not take an empty directory for the content.
pub(super) async fn run(session: &Session, arguments: &PathOf) -> Result<()> {
    let (volume, pod) = arguments.target.split_last().ok_or(CommandError::NameRequired)?;
    let target = Target::named(pod, &[Resource::Pods])?;
    let pod = target.names.first().ok_or(CommandError::NameRequired)?;
    let path = format!("{}/volumes", session.path("pods", Some(pod)));
    let volumes: PodVolumes = session.client.get(&path).await?;
    let found = find(&volumes, pod, volume)?;
    if !found.mounted && !arguments.allow_unmounted {
        return Err(CommandError::NotMounted { pod: pod.clone(), volume: volume.clone() });
    }
    let path = match &arguments.container {
        Some(container) => &sub_path(found, container, arguments.index)?.path,
        None => &found.path,
    };
    // Byte for byte, because it will be used: a path with control characters is refused, not altered.
    if path.chars().any(crate::text::is_unsafe) {
        return Err(CommandError::UnsafePath { path: path.clone() });
    }
    session::print(&format!("{path}\n"))
}

fn find<'a>(volumes: &'a PodVolumes, pod: &str, volume: &str) -> Result<&'a PodVolume> {
    volumes.volumes.iter().find(|candidate| candidate.name == volume).ok_or_else(|| {
        let known: Vec<&str> = volumes.volumes.iter().map(|candidate| candidate.name.as_str()).collect();
        let known = if known.is_empty() { String::new() } else { format!("; it has {}", known.join(", ")) };
        CommandError::NoSuchVolume { pod: pod.to_owned(), volume: volume.to_owned(), known }
    })
}

fn sub_path<'a>(volume: &'a PodVolume, container: &str, index: Option<u32>) -> Result<&'a PodSubPath> {
    let of_container =
        |sub_path: &&PodSubPath| sub_path.container == container && index.is_none_or(|index| sub_path.index == index);
    let found: Vec<&PodSubPath> = volume.sub_paths.iter().filter(of_container).collect();
    match found.as_slice() {
        [] => Err(CommandError::NoSubPath { container: container.to_owned(), volume: volume.name.clone() }),
        [one] => Ok(one),
        several => {
            let choices: Vec<_> =
                several.iter().map(|sub_path| format!("{} ({})", sub_path.index, sub_path.sub_path)).collect();
            Err(CommandError::SeveralSubPaths {
                container: container.to_owned(),
                volume: volume.name.clone(),
                choices: choices.join(", "),
            })
        }
    }
}
