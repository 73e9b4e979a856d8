//! `get volumes`: the volumes that the kubelet of this node has asked for.

use imagevol_api::daemon::{CsiVolume, CsiVolumeList, CsiVolumeState};

use super::get::Columns;
use super::listing::{Listing, NONE, or_none};
use super::pulls::Progress;
use crate::cli::Get;
use crate::error::{CommandError, Result};
use crate::session::Session;
use crate::target::Resource;

/// `get volumes`: of a namespace, of all, or of one pod.
pub(super) async fn get(session: &Session, arguments: &Get, names: &[String]) -> Result<()> {
    if !names.is_empty() {
        return Err(CommandError::Usage("volumes are chosen by their pod, as in --for pod/web"));
    }
    let pod = arguments.about.as_deref().map(pod_of).transpose()?;
    let mut list: CsiVolumeList = session.client.get("/volumes").await?;
    let namespace = (!arguments.all_namespaces).then_some(session.namespace.as_str());
    list.items.retain(|volume| is_of(volume, namespace, pod));
    let columns = Columns::of(arguments);
    listing(&list, columns).show(arguments.output, columns)
}

/// The name in `pod/NAME`.
fn pod_of(about: &str) -> Result<&str> {
    let named = about.split_once('/').filter(|(kind, _)| Resource::parse(kind) == Some(Resource::Pods));
    named.map(|(_, name)| name).ok_or(CommandError::Usage("--for takes a pod here, as in pod/web"))
}

/// A pod of which only the UID is known is in no namespace, and is chosen by that UID.
fn is_of(volume: &CsiVolume, namespace: Option<&str>, pod: Option<&str>) -> bool {
    namespace.is_none_or(|namespace| volume.namespace == namespace)
        && pod.is_none_or(|pod| volume.pod == pod || volume.pod_uid == pod)
}

fn listing(list: &CsiVolumeList, columns: Columns) -> Listing<'_, CsiVolumeList> {
    let mut headings = vec!["POD", "VOLUME", "REFERENCE", "STATUS", "PROGRESS"];
    if columns.namespaces {
        headings.insert(0, "NAMESPACE");
    }
    if columns.wide {
        headings.extend(["IMAGE", "PATH", "MESSAGE"]);
    }
    Listing {
        list,
        names: list.items.iter().map(|volume| format!("volume/{}/{}", pod(volume), volume.volume)).collect(),
        headings,
        rows: list.items.iter().map(|volume| row(volume, columns)).collect(),
        empty: "No volumes found.",
    }
}

fn row(volume: &CsiVolume, columns: Columns) -> Vec<String> {
    let mut row = vec![
        pod(volume).to_owned(),
        volume.volume.clone(),
        volume.reference.clone(),
        status(volume).to_owned(),
        progress(volume),
    ];
    if columns.namespaces {
        row.insert(0, or_none(&volume.namespace));
    }
    if columns.wide {
        row.push(volume.image.as_ref().map_or_else(|| NONE.to_owned(), ToString::to_string));
        row.push(volume.path.clone());
        row.push(or_none(volume.message.as_deref().unwrap_or_default()));
    }
    row
}

/// The pod's name, or its UID while that is all that is known.
fn pod(volume: &CsiVolume) -> &str {
    if volume.pod.is_empty() { &volume.pod_uid } else { &volume.pod }
}

/// The reason of a failure says more than that it failed.
fn status(volume: &CsiVolume) -> &str {
    match volume.state {
        CsiVolumeState::Failed => volume.reason.as_deref().filter(|reason| !reason.is_empty()).unwrap_or("Failed"),
        CsiVolumeState::Waiting => "Waiting",
        CsiVolumeState::Pulling => "Pulling",
        CsiVolumeState::Present => "Present",
        CsiVolumeState::Mounted => "Mounted",
        CsiVolumeState::Leaving => "Leaving",
    }
}

fn progress(volume: &CsiVolume) -> String {
    if volume.blobs.is_empty() { NONE.to_owned() } else { Progress::of(&volume.blobs).to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::json;

    fn volumes() -> CsiVolumeList {
        let digest = format!("sha256:{}", "0".repeat(64));
        serde_json::from_value(json!({"items": [
            {"namespace": "shop", "pod": "web", "podUid": "u1", "volume": "model", "path": "/p/1", "reference": "quay.io/model:v1",
             "state": "Pulling", "blobs": [{"digest": digest, "size": 2_000_000_000, "done": 500_000_000}]},
            {"namespace": "shop", "pod": "db", "podUid": "u2", "volume": "seed", "path": "/p/2", "reference": "quay.io/\u{1b}seed:v1",
             "state": "Failed", "reason": "ErrImagePull", "message": "manifest unknown", "blobs": []},
            {"namespace": "", "pod": "", "podUid": "u3", "volume": "old", "path": "/p/3", "reference": "quay.io/old:v1",
             "state": "Mounted", "image": digest, "blobs": []},
        ]}))
        .unwrap()
    }

    fn columns(wide: bool, namespaces: bool) -> Columns {
        Columns { wide, namespaces, headings: true }
    }

    #[test]
    fn a_table_of_volumes() {
        let text = "\
NAMESPACE   POD   VOLUME   REFERENCE               STATUS         PROGRESS
shop        web   model    quay.io/model:v1        Pulling        25% of 2GB
shop        db    seed     quay.io/\\u{1b}seed:v1   ErrImagePull   <none>
<none>      u3    old      quay.io/old:v1          Mounted        <none>
";
        let columns = columns(false, true);
        assert_eq!(listing(&volumes(), columns).table(columns), text);
    }

    #[test]
    fn wide_shows_what_is_mounted_where() {
        let columns = columns(true, false);
        let text = listing(&volumes(), columns).table(columns);
        let last = format!("sha256:{}   /p/3   <none>", "0".repeat(64));
        assert!(text.lines().nth(3).unwrap().ends_with(&last), "{text}");
        assert!(text.lines().nth(2).unwrap().ends_with("/p/2   manifest unknown"), "{text}");
    }

    #[rstest]
    #[case(Some("shop"), None, &["web", "db"])]
    #[case(None, None, &["web", "db", "u3"])]
    #[case(Some("shop"), Some("db"), &["db"])]
    #[case(Some("shop"), Some("u3"), &[])]
    #[case(None, Some("u3"), &["u3"])]
    fn pods_choose_volumes(#[case] namespace: Option<&str>, #[case] name: Option<&str>, #[case] expected: &[&str]) {
        let list = volumes();
        let found: Vec<_> = list.items.iter().filter(|volume| is_of(volume, namespace, name)).map(pod).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn only_pods_have_volumes() {
        assert_eq!(pod_of("pod/web").unwrap(), "web");
        assert!(pod_of("image/web").is_err() && pod_of("web").is_err());
    }
}
