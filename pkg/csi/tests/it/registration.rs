//! How the kubelet hears of the driver: real sockets, real events of the file system.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::Duration;

use imagevol_api::csi::NodePublishVolumeRequest;
use imagevol_api::csi::node_client::NodeClient;
use imagevol_base::{Supervisor, Target};
use imagevol_test_support::kubelet::{Kubelet, KubeletPod, KubeletVolume, PluginWatcher};
use imagevol_volumemanager::VolumeRequest;
use tonic::Code;

use crate::node::Node;

/// Longer than any step of a driver that ends.
const GRACE: Duration = Duration::from_secs(30);

struct Started {
    supervisor: Supervisor,
}

async fn start(node: &Node) -> Started {
    let supervisor = Supervisor::new("test");
    imagevol_csi::start(node.parts(), &supervisor).await.unwrap();
    Started { supervisor }
}

fn registration_socket(node: &Node) -> PathBuf {
    node.root.path().join("plugins_registry/csi.imagevol.dev-reg.sock")
}

fn csi_socket(node: &Node) -> PathBuf {
    node.root.path().join("plugins/csi.imagevol.dev/csi.sock")
}

impl Started {
    async fn end(self) {
        assert!(self.supervisor.shut_down(GRACE).await, "a task did not end");
        assert_eq!(self.supervisor.panics(), 0);
    }
}

#[tokio::test]
async fn a_kubelet_finds_the_driver_and_uses_it() {
    let node = Node::new();
    let mut watcher = PluginWatcher::new(node.root.path());
    let started = start(&node).await;
    let plugin = watcher.register().await.unwrap();
    assert_eq!((&*plugin.info.r#type, &*plugin.info.name), ("CSIPlugin", "csi.imagevol.dev"));
    assert_eq!(plugin.info.supported_versions, ["1.12.0"]);
    assert_eq!(plugin.node_id, "node-1");
    let (kubelet, pod) = (Kubelet::new(node.root.path(), plugin.driver), KubeletPod::new("uid-1"));
    let volume = KubeletVolume::inline("models", "r.io/models:1");
    kubelet.start(&pod, &volume).await;
    assert!(kubelet.is_mounted(&pod, &volume));
    kubelet.delete("uid-1", "models").await;
    assert!(node.volumes.wanted().is_empty());
    started.end().await;
}

#[tokio::test]
async fn it_registers_again_whenever_either_side_restarts() {
    let node = Node::new();
    let mut watcher = PluginWatcher::new(node.root.path());
    let first = start(&node).await;
    watcher.register().await.unwrap();
    // The kubelet begins anew, and looks at what lies there.
    let mut watcher = PluginWatcher::new(node.root.path());
    watcher.register().await.unwrap();
    // The driver begins anew after a proper end.
    first.end().await;
    let second = start(&node).await;
    watcher.register().await.unwrap();
    second.end().await;
    // And after a kill, which leaves the files.
    for path in [registration_socket(&node), csi_socket(&node)] {
        drop(UnixListener::bind(path).unwrap());
    }
    let mut watcher = PluginWatcher::new(node.root.path());
    assert_eq!(watcher.appears().await, registration_socket(&node), "the stale one");
    let third = start(&node).await;
    watcher.register().await.unwrap();
    third.end().await;
}

#[tokio::test]
async fn at_its_end_its_files_go_and_calls_are_answered() {
    let node = Node::new();
    node.volumes.pull_takes("r.io/models:1", 1000);
    let mut watcher = PluginWatcher::new(node.root.path());
    let started = start(&node).await;
    let plugin = watcher.register().await.unwrap();
    let (kubelet, pod) = (Kubelet::new(node.root.path(), plugin.driver), KubeletPod::new("uid-1"));
    let volume = KubeletVolume::inline("models", "r.io/models:1");
    let end = async {
        node.volumes.until(|volumes| volumes.count("publish") == 1).await;
        started.end().await;
    };
    let (held, ()) = tokio::join!(kubelet.set_up(&pod, &volume), end);
    assert_eq!(held.unwrap_err().code(), Code::Unavailable);
    assert!(!registration_socket(&node).exists() && !csi_socket(&node).exists());
}

/// A frame of HTTP/2 on stream `stream` (RFC 9113, 4.1).
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    [&[0, 0, length, kind, flags, 0, 0, 0, stream], payload].concat()
}

/// A field that enters the dynamic table, its name being in the static one (RFC 7541, 6.2.1).
fn field(name: u8, value: &str) -> Vec<u8> {
    [&[0x40 | name, u8::try_from(value.len()).unwrap()], value.as_bytes()].concat()
}

/// Reads until the headers of an answer on the stream have come; an error of the stream or the connection is a failed test.
fn read_answer(socket: &mut UnixStream, stream: u8) {
    loop {
        let mut head = [0; 9];
        socket.read_exact(&mut head).unwrap();
        let [_, high, low, kind, _, _, _, _, on] = head;
        let mut payload = vec![0; usize::from(high) << 8 | usize::from(low)];
        socket.read_exact(&mut payload).unwrap();
        assert!(kind != 3 && kind != 7, "the stream or the connection was ended: {payload:?}");
        if (kind, on) == (1, stream) {
            return;
        }
    }
}

// grpc-go makes the authority of the address that it dials, which for the kubelet's plugin watcher is a path.
#[tokio::test(flavor = "multi_thread")]
async fn a_kubelet_may_name_the_socket_as_the_authority() {
    let node = Node::new();
    let mut watcher = PluginWatcher::new(node.root.path());
    let started = start(&node).await;
    let path = watcher.appears().await;
    let mut socket = UnixStream::connect(&path).unwrap();
    socket.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
    socket.write_all(&frame(4, 0, 0, &[])).unwrap();
    let fields = [
        vec![0x83, 0x86],
        field(4, "/pluginregistration.Registration/GetInfo"),
        field(1, path.to_str().unwrap()),
        field(31, "application/grpc"),
        b"\x40\x02te\x08trailers".to_vec(),
    ];
    // The second call refers to what the first has put into the table.
    for (stream, block) in [(1, fields.concat()), (3, vec![0x83, 0x86, 0xc1, 0xc0, 0xbf, 0xbe])] {
        socket.write_all(&frame(1, 4, stream, &block)).unwrap();
        socket.write_all(&frame(0, 1, stream, &[0; 5])).unwrap();
        read_answer(&mut socket, stream);
    }
    drop(socket);
    started.end().await;
}

/// From here on time passes as soon as everybody waits.
async fn let_time_pass_until_it_appears(watcher: &mut PluginWatcher) -> PathBuf {
    tokio::time::pause();
    let path = watcher.appears().await;
    tokio::time::resume();
    path
}

#[tokio::test]
async fn a_wiped_directory_is_filled_again() {
    let node = Node::new();
    let mut watcher = PluginWatcher::new(node.root.path());
    let started = start(&node).await;
    watcher.register().await.unwrap();
    fs::remove_dir_all(node.root.path().join("plugins_registry")).unwrap();
    fs::remove_dir_all(node.root.path().join("plugins")).unwrap();
    let mut watcher = PluginWatcher::new(node.root.path());
    assert_eq!(let_time_pass_until_it_appears(&mut watcher).await, registration_socket(&node));
    UnixStream::connect(registration_socket(&node)).unwrap();
    tokio::time::pause();
    while UnixStream::connect(csi_socket(&node)).is_err() {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    tokio::time::resume();
    started.end().await;
}

#[tokio::test]
async fn a_directory_that_comes_later_is_waited_for() {
    let node = Node::new();
    let started = start(&node).await;
    assert!(!node.root.path().join("plugins_registry").exists(), "it is the kubelet's to make");
    let mut watcher = PluginWatcher::new(node.root.path());
    let_time_pass_until_it_appears(&mut watcher).await;
    started.end().await;
}

#[tokio::test]
async fn a_refused_driver_appears_again() {
    let node = Node::new();
    let mut watcher = PluginWatcher::new(node.root.path());
    let started = start(&node).await;
    watcher.refuse("another driver has this name\u{1b}[2J").await.unwrap();
    let_time_pass_until_it_appears(&mut watcher).await;
    UnixStream::connect(registration_socket(&node)).unwrap();
    started.end().await;
}

#[tokio::test]
async fn a_socket_that_cannot_be_had_is_said_at_the_start() {
    let node = Node::new();
    fs::create_dir_all(csi_socket(&node).join("full")).unwrap();
    let error = imagevol_csi::start(node.parts(), &Supervisor::new("test")).await.unwrap_err();
    assert_eq!(error.to_string(), "cannot open the socket of the CSI driver");
}

#[tokio::test]
async fn volumes_of_pods_that_left_silently_are_given_up() {
    let node = Node::new();
    let target = |pod: &str| {
        let path = KubeletVolume::inline("models", "a").target(node.root.path(), &KubeletPod::new(pod));
        Target::parse(node.root.path(), &path).unwrap()
    };
    for pod in ["left", "here", "known"] {
        let request = VolumeRequest {
            pod: std::sync::Arc::default(),
            reference: "r.io/a:1".to_owned(),
            policy: None,
            claims: std::sync::Arc::default(),
            platform: None,
        };
        node.volumes.want(&target(pod), request);
    }
    fs::create_dir_all(node.root.path().join("pods/here")).unwrap();
    let supervisor = Supervisor::new("test");
    let mut parts = node.parts();
    parts.pods = std::sync::Arc::new(|pod| (pod.as_str() == "known").then(std::sync::Arc::default));
    imagevol_csi::start(parts, &supervisor).await.unwrap();
    tokio::time::pause();
    node.volumes.until(|volumes| volumes.wanted().len() == 2).await;
    tokio::time::resume();
    assert_eq!(node.volumes.wanted(), ["here/models", "known/models"]);
    assert!(supervisor.shut_down(GRACE).await);
}

#[tokio::test]
async fn many_calls_share_a_connection() {
    let node = Node::new();
    let started = start(&node).await;
    let endpoint = tonic::transport::Endpoint::from_shared(format!("unix://{}", csi_socket(&node).display())).unwrap();
    let channel = endpoint.connect().await.unwrap();
    let calls = (0..10_000).map(|_| {
        let mut client = NodeClient::new(channel.clone());
        async move { client.node_publish_volume(NodePublishVolumeRequest::default()).await.unwrap_err().code() }
    });
    let codes = futures_util::future::join_all(calls).await;
    assert!(codes.iter().all(|code| *code == Code::InvalidArgument));
    drop(channel);
    started.end().await;
}
