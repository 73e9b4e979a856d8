//! The whole proof: the store's rows and bytes, and the mounts against the rows. Online it reads, and repairs, beside the running
//! daemon.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;
use imagevol_api::config::ImagevolConfiguration;
use imagevol_api::daemon::FsckReport;
use imagevol_api::oci::Digest;
use imagevol_base::Holder;
use imagevol_mount::{DeviceNumber, Interface, Kernel, MountPoint};
use imagevol_store::Store;
use imagevol_volume::{Door, Host, Key};

/// Whether what is wrong is only told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Nothing is changed.
    Check,
    /// What can be repaired is.
    Repair,
}

/// `imagevold fsck`: checks the state directory while no daemon runs; exit code 1 if anything is wrong, and stays so.
pub(crate) fn offline(config: &ImagevolConfiguration, mode: Mode) -> anyhow::Result<ExitCode> {
    let store = Store::open_for_fsck(&config.state_dir);
    let store = store.with_context(|| format!("cannot open the store in {}", config.state_dir.display()))?;
    let host = Host::new(config.root_dir(), std::sync::Arc::new(Kernel));
    // What is staged of an image that is set aside here may not be seen from this mount namespace; the store remembers it, and the
    // daemon unmounts it.
    let found = match mode {
        Mode::Check => store.fsck(),
        Mode::Repair => store.repair(&mut |_| {}),
    };
    let report = with_mounts(found.context("store")?, (&store, &host), &Kernel, config)?;
    let mut out = std::io::stdout().lock();
    write!(out, "{report}").context("cannot write the report")?;
    Ok(if report.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What was found in the store, and the mounts against its rows. Of mounts that are wrong is only told. Blocking.
pub(crate) fn with_mounts(
    report: imagevol_store::Report,
    (store, host): (&Store, &Host),
    mounts: &dyn Interface,
    config: &ImagevolConfiguration,
) -> anyhow::Result<FsckReport> {
    let mut report = FsckReport {
        images: report.images,
        blobs: report.blobs,
        bytes: report.bytes,
        mounts: 0,
        unfinished: report.unfinished,
        problems: report.problems,
        repaired: report.repaired,
    };
    check_volumes(store, host, &mut report)?;
    check_mounts(store, host, &staged_images(mounts, config)?, &mut report)?;
    Ok(report)
}

/// Each volume's directory has a row; a row without a mount is a volume that waits.
fn check_volumes(store: &Store, host: &Host, report: &mut FsckReport) -> anyhow::Result<()> {
    let rows: BTreeMap<Holder, _> = store.references().context("references")?.into_iter().collect();
    for found in host.find_volumes().context("pod directories")? {
        if !rows.contains_key(&found.holder()) {
            report.problems.push(format!("{}: no reference row names this volume", host.path(&found).display()));
        }
    }
    Ok(())
}

/// Each mount of ours is of an image that a row names: its superblock is the one staged for that image, or of files that were that image
/// once.
fn check_mounts(
    store: &Store,
    host: &Host,
    staged: &BTreeMap<String, DeviceNumber>,
    report: &mut FsckReport,
) -> anyhow::Result<()> {
    report.mounts += u64::try_from(staged.len()).unwrap_or(u64::MAX);
    let bound = bound_images(store)?;
    for (key, mount) in host.mounts().context("pod mounts")? {
        let Some(image) = bound.get(&key) else {
            // A kubelet's volume without a row may be another driver's.
            if key.door == Door::Pod {
                report.mounts += 1;
                report
                    .problems
                    .push(format!("{}: mounted, and no reference row is bound to an image", mount.at.display()));
            }
            continue;
        };
        report.mounts += 1;
        if staged.get(image.hex()).is_none_or(|device| *device == mount.device) {
            continue;
        }
        if store.stale_mounts(image).context("stale mounts")?.holders.contains(&key.holder()) {
            let at = mount.at.display();
            report.unfinished.push(format!("{at}: reads an earlier copy of {image}, which is no longer in the store"));
        } else {
            report.problems.push(format!("{}: mounted from another image than {image}", mount.at.display()));
        }
    }
    Ok(())
}

/// The superblock of each staged image, by the image's digest.
fn staged_images(
    mounts: &dyn Interface,
    config: &ImagevolConfiguration,
) -> anyhow::Result<BTreeMap<String, DeviceNumber>> {
    let staged = mounts.list(&config.run_dir.join("staging")).context("staging mounts")?;
    let name = |mount: &MountPoint| mount.at.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(staged.into_iter().map(|mount| (name(&mount), mount.device)).collect())
}

fn bound_images(store: &Store) -> anyhow::Result<BTreeMap<Key, Digest>> {
    let rows = store.references().context("references")?;
    Ok(rows.into_iter().filter_map(|(holder, row)| Some((Key::of_holder(holder)?, row.image?))).collect())
}
