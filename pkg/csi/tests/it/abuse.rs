//! Callers that do not keep to the protocol.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

use imagevol_api::csi::node_client::NodeClient;
use imagevol_api::csi::{NodeGetInfoRequest, NodePublishVolumeRequest};
use imagevol_base::Supervisor;
use imagevol_test_support::daemon::{have, skip};
use imagevol_test_support::kubelet::Driver;
use rstest::rstest;
use tonic::client::Grpc;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use crate::node::Node;

/// Sends bytes as they are.
#[derive(Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        bytes::BufMut::put_slice(buffer, &item);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::default()
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let length = bytes::Buf::remaining(buffer);
        Ok(Some(bytes::Buf::copy_to_bytes(buffer, length).to_vec()))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::default()
    }
}

async fn send(channel: &Channel, path: &'static str, bytes: Vec<u8>) -> Code {
    let mut client = Grpc::new(channel.clone());
    client.ready().await.unwrap();
    let answer = client.unary(Request::new(bytes), PathAndQuery::from_static(path), Raw).await;
    answer.map_or_else(|status| status.code(), |_| Code::Ok)
}

#[rstest]
#[case::malformed("/csi.v1.Node/NodePublishVolume", vec![0xff; 64], Code::Internal)]
#[case::cut_short("/csi.v1.Node/NodePublishVolume", b"\x0a\x7fv".to_vec(), Code::Internal)]
#[case::not_utf8("/csi.v1.Node/NodePublishVolume", b"\x0a\x02\xff\xff".to_vec(), Code::Internal)]
#[case::too_large("/csi.v1.Node/NodePublishVolume", vec![0; 100 << 20], Code::OutOfRange)]
#[case::unknown_fields("/csi.v1.Node/NodeGetInfo", b"\xfa\x01\x03abc".to_vec(), Code::Ok)]
#[case::unknown_call("/csi.v1.Node/NodeFormat", Vec::new(), Code::Unimplemented)]
#[case::unknown_service("/csi.v1.Controller/CreateVolume", Vec::new(), Code::Unimplemented)]
#[tokio::test]
async fn bytes_that_are_no_call(#[case] path: &'static str, #[case] bytes: Vec<u8>, #[case] code: Code) {
    let node = Node::new();
    let supervisor = Supervisor::new("test");
    let parts = node.parts();
    let endpoint = Endpoint::from_shared(format!("unix://{}", parts.endpoint.display())).unwrap();
    imagevol_csi::start(parts, &supervisor).await.unwrap();
    let channel = endpoint.connect().await.unwrap();
    assert_eq!(send(&channel, path, bytes).await, code);
    // Whoever comes next is served.
    let channel = endpoint.connect().await.unwrap();
    NodeClient::new(channel.clone()).node_get_info(NodeGetInfoRequest {}).await.unwrap();
    let empty = NodeClient::new(channel).node_publish_volume(NodePublishVolumeRequest::default()).await;
    assert_eq!(empty.unwrap_err().code(), Code::InvalidArgument);
    assert!(node.volumes.log().is_empty() && supervisor.panics() == 0);
    supervisor.cancel();
}

/// Connects as nobody, or as who runs this, and tells how many bytes a server says first.
const CONNECT: &str = r"
import os, socket, sys
if sys.argv[2] == 'nobody':
    os.setgroups([])
    os.setresuid(65534, 65534, 65534)
peer = socket.socket(socket.AF_UNIX)
peer.connect(sys.argv[1])
try:
    peer.sendall(b'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n' + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
    print(len(peer.recv(100)))
except ConnectionError:
    print(0)
";

#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_gets_in_even_where_the_mode_is_lost() {
    let test = "nobody_else_gets_in";
    if std::fs::metadata("/proc/self").unwrap().uid() != 0 {
        return skip(test, "needs root to be somebody else");
    }
    if !have(test, &["python3"]) {
        return;
    }
    let node = Node::new();
    let supervisor = Supervisor::new("test");
    let parts = node.parts();
    let socket = parts.endpoint.clone();
    imagevol_csi::start(parts, &supervisor).await.unwrap();
    for path in socket.ancestors().take_while(|path| path.starts_with(node.root.path())) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
    }
    let heard = |who: &str| {
        let output = Command::new("python3").args(["-c", CONNECT]).arg(&socket).arg(who).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().parse::<usize>().unwrap()
    };
    assert!(heard("root") > 0);
    assert_eq!(heard("nobody"), 0);
    supervisor.cancel();
}

#[tokio::test]
async fn who_says_nothing_holds_up_nobody() {
    let node = Node::new();
    let supervisor = Supervisor::new("test");
    let parts = node.parts();
    let socket = parts.endpoint.clone();
    imagevol_csi::start(parts, &supervisor).await.unwrap();
    let silent: Vec<_> = (0..200).map(|_| UnixStream::connect(&socket).unwrap()).collect();
    Driver::Socket(socket).node_id().await.unwrap();
    assert!(supervisor.shut_down(Duration::from_secs(30)).await, "nor the daemon's end");
    drop(silent);
}
