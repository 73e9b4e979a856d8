//! The whole proof: the store's rows and bytes, and the mounts against the rows. Online it reads beside the running daemon.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;
use imagevol_api::config::ImagevolConfiguration;
use imagevol_api::daemon::FsckReport;
use imagevol_api::oci::Digest;
use imagevol_base::Holder;
use imagevol_mount::{Interface, Kernel};
use imagevol_store::Store;
use imagevol_volume::Host;

/// `imagevold fsck`: checks the state directory while no daemon runs; exit code 1 if anything is wrong.
pub(crate) fn offline(config: &ImagevolConfiguration) -> anyhow::Result<ExitCode> {
    let store = Store::open_for_fsck(&config.state_dir);
    let store = store.with_context(|| format!("cannot open the store in {}", config.state_dir.display()))?;
    let host = Host::new(config.root_dir(), std::sync::Arc::new(Kernel));
    let report = check(&store, &host, &Kernel, config)?;
    let mut out = std::io::stdout().lock();
    write!(out, "{report}").context("cannot write the report")?;
    Ok(if report.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Checks everything. Blocking.
pub(crate) fn check(
    store: &Store,
    host: &Host,
    mounts: &dyn Interface,
    config: &ImagevolConfiguration,
) -> anyhow::Result<FsckReport> {
    let report = store.fsck().context("store")?;
    let mut report = FsckReport {
        images: report.images,
        blobs: report.blobs,
        bytes: report.bytes,
        mounts: 0,
        unfinished: report.unfinished,
        problems: report.problems,
    };
    check_volumes(store, host, &mut report)?;
    check_mounts(store, mounts, config, &mut report)?;
    Ok(report)
}

/// Each volume's directory has a row; a row without a mount is a volume that waits.
fn check_volumes(store: &Store, host: &Host, report: &mut FsckReport) -> anyhow::Result<()> {
    let rows: BTreeMap<Holder, _> = store.references().context("references")?.into_iter().collect();
    for found in host.find_volumes().context("pod directories")? {
        let path = host.volume_path(&found.pod, &found.volume);
        let holder = Holder::Volume { pod: found.pod, volume: found.volume };
        if !rows.contains_key(&holder) {
            report.problems.push(format!("{}: no reference row names this volume", path.display()));
        }
    }
    Ok(())
}

/// Each mount of ours is of an image that a row names: its superblock is the one staged for that image.
fn check_mounts(
    store: &Store,
    mounts: &dyn Interface,
    config: &ImagevolConfiguration,
    report: &mut FsckReport,
) -> anyhow::Result<()> {
    let mut staged = BTreeMap::new();
    for mount in mounts.list(&config.run_dir.join("staging")).context("staging mounts")? {
        report.mounts += 1;
        let name = mount.at.file_name().unwrap_or_default().to_string_lossy().into_owned();
        staged.insert(name, mount.device);
    }
    let bound = bound_images(store)?;
    for (path, pod_mount) in pod_mounts(mounts, config)? {
        report.mounts += 1;
        let Some(image) = bound.get(&path.0) else {
            report.problems.push(format!("{}: mounted, and no reference row is bound to an image", path.1));
            continue;
        };
        if staged.get(image.hex()).is_some_and(|device| *device != pod_mount) {
            report.problems.push(format!("{}: mounted from another image than {image}", path.1));
        }
    }
    Ok(())
}

fn bound_images(store: &Store) -> anyhow::Result<BTreeMap<(String, String), Digest>> {
    let mut bound = BTreeMap::new();
    for (holder, row) in store.references().context("references")? {
        if let (Holder::Volume { pod, volume }, Some(image)) = (holder, row.image) {
            bound.insert((pod.to_string(), volume.to_string()), image);
        }
    }
    Ok(bound)
}

type PodMount = (((String, String), String), imagevol_mount::DeviceNumber);

/// Our mounts below the pods' directories, by pod and volume.
fn pod_mounts(mounts: &dyn Interface, config: &ImagevolConfiguration) -> anyhow::Result<Vec<PodMount>> {
    let pods = config.root_dir().join("pods");
    let mut found = Vec::new();
    for mount in mounts.list(&pods).context("pod mounts")? {
        let below = mount.at.strip_prefix(&pods).map(std::path::Path::to_path_buf).unwrap_or_default();
        let parts: Vec<_> = below.iter().map(|part| part.to_string_lossy().into_owned()).collect();
        let key = match parts.as_slice() {
            [pod, family, plugin, volume] if family == "volumes" && plugin == "kubernetes.io~image" => (pod, volume),
            [pod, family, volume, _, _] if family == "volume-subpaths" => (pod, volume),
            _ => continue,
        };
        found.push((((key.0.clone(), key.1.clone()), mount.at.display().to_string()), mount.device));
    }
    Ok(found)
}
