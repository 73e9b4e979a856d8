//! Callers that do not keep to the protocol.

use imagevol_api::csi::node_client::NodeClient;
use imagevol_api::csi::{NodeGetInfoRequest, NodePublishVolumeRequest};
use imagevol_base::Supervisor;
use rstest::rstest;
use tokio::sync::watch;
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
    let parts = node.parts(watch::channel(true).1);
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
