//! Notices plugins: by the events of a directory, and by one look at it at the start; never by asking again
//! (Kubernetes, pkg/kubelet/pluginmanager).

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use imagevol_api::pluginregistration::registration_client::RegistrationClient;
use imagevol_api::pluginregistration::{InfoRequest, PluginInfo, RegistrationStatus};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::unix::AsyncFd;
use tonic::Status;

use super::{Channel, Driver, within};

/// operationexecutor/operation_generator.go, `dialTimeoutDuration`.
const DIAL: Duration = Duration::from_secs(10);
/// The same, `GenerateRegisterPluginFunc`.
const GET_INFO: Duration = Duration::from_secs(1);
/// The same, `notifyTimeoutDuration`.
const NOTIFY: Duration = Duration::from_secs(5);

/// Looks into a directory of plugins.
#[derive(Debug)]
pub struct PluginWatcher {
    dir: PathBuf,
    inotify: Inotify,
    /// A second descriptor of the same, to wait on.
    readable: AsyncFd<OwnedFd>,
    /// Sockets that have appeared and were not taken yet.
    appeared: VecDeque<PathBuf>,
}

/// A plugin that was registered.
#[derive(Debug)]
pub struct Registered {
    /// What it says of itself.
    pub info: PluginInfo,
    /// Where its services are.
    pub driver: Driver,
    /// The node's name for it.
    pub node_id: String,
}

/// Why a plugin was not registered.
#[derive(Debug)]
pub enum RegistrationError {
    /// Nobody answers on its socket.
    Dial(Status),
    /// It does not say what it is within a second.
    Info(Status),
    /// Its own socket does not answer.
    Node(Status),
    /// It did not take note within five seconds.
    Notify(Status),
}

// === impl PluginWatcher ===

#[expect(clippy::expect_used, reason = "a harness: whatever fails here fails the test that uses it")]
impl PluginWatcher {
    /// Begins to watch, as a kubelet that starts: the directory is made, and what lies there counts as having appeared.
    #[expect(deprecated, reason = "its successor is unsafe; the descriptor stays open and the same while this lives")]
    pub fn new(root: &Path) -> Self {
        let dir = root.join("plugins_registry");
        std::fs::create_dir_all(&dir).expect("make plugins_registry");
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).expect("inotify");
        let events = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
        inotify.add_watch(&dir, events).expect("watch plugins_registry");
        let found = std::fs::read_dir(&dir).expect("read plugins_registry").flatten().map(|entry| entry.path());
        let appeared = found.filter(|path| is_plugin(path)).collect();
        let descriptor = inotify.as_fd().try_clone_to_owned().expect("a second descriptor");
        Self { dir, inotify, readable: AsyncFd::new(descriptor).expect("wait for inotify"), appeared }
    }

    /// The next socket that appears.
    pub async fn appears(&mut self) -> PathBuf {
        loop {
            if let Some(path) = self.appeared.pop_front() {
                return path;
            }
            let mut ready = self.readable.readable().await.expect("wait for inotify");
            match self.inotify.read_events() {
                Ok(events) => {
                    let paths = events.into_iter().filter_map(|event| Some(self.dir.join(event.name?)));
                    self.appeared.extend(paths.filter(|path| is_plugin(path)));
                }
                Err(_) => ready.clear_ready(),
            }
        }
    }

    /// Registers the next plugin that appears, with the kubelet's deadlines.
    pub async fn register(&mut self) -> Result<Registered, RegistrationError> {
        let path = self.appears().await;
        let channel = connect(&path).await.map_err(RegistrationError::Dial)?;
        let mut client = RegistrationClient::new(channel);
        let info = within(GET_INFO, client.get_info(InfoRequest {})).await.map_err(RegistrationError::Info)?;
        let info = info.into_inner();
        let driver = Driver::Socket(info.endpoint.clone().into());
        let node_id = driver.node_id().await;
        let status = match &node_id {
            Ok(_) => RegistrationStatus { plugin_registered: true, error: String::new() },
            Err(error) => RegistrationStatus { plugin_registered: false, error: error.to_string() },
        };
        let notified = within(NOTIFY, client.notify_registration_status(status)).await;
        let node_id = node_id.map_err(RegistrationError::Node)?;
        notified.map_err(RegistrationError::Notify)?;
        Ok(Registered { info, driver, node_id })
    }

    /// Refuses the next plugin that appears, for a reason of its own.
    pub async fn refuse(&mut self, why: &str) -> Result<(), RegistrationError> {
        let path = self.appears().await;
        let mut client = RegistrationClient::new(connect(&path).await.map_err(RegistrationError::Dial)?);
        let status = RegistrationStatus { plugin_registered: false, error: why.to_owned() };
        let notified = within(NOTIFY, client.notify_registration_status(status)).await;
        notified.map(drop).map_err(RegistrationError::Notify)
    }
}

async fn connect(path: &Path) -> Result<Channel, Status> {
    within(DIAL, super::dial(path)).await
}

/// A socket whose name has no dot in front (pluginwatcher/plugin_watcher.go, `handleCreateEvent`).
fn is_plugin(path: &Path) -> bool {
    let is_hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    is_socket && !is_hidden
}
