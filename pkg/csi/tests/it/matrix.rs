//! What may be asked of the Node service, and is refused, and what callers do in the middle of a call.

use std::time::Duration;

use imagevol_api::csi::volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume, access_mode::Mode};
use imagevol_api::csi::{
    GetPluginCapabilitiesRequest, GetPluginInfoRequest, NodeExpandVolumeRequest, NodeGetInfoRequest,
    NodeGetVolumeStatsRequest, NodePublishVolumeRequest, NodeStageVolumeRequest, NodeUnpublishVolumeRequest,
    NodeUnstageVolumeRequest, ProbeRequest, VolumeCapability,
};
use imagevol_test_support::kubelet::{KubeletPod, KubeletVolume};
use prometheus_client::registry::Registry;
use rstest::rstest;
use tonic::{Code, Request};

use crate::node::{Node, Run};

const IMAGE: &str = "r.io/models:1";

fn capability(access_type: AccessType, mode: Mode) -> VolumeCapability {
    VolumeCapability { access_type: Some(access_type), access_mode: Some(AccessMode { mode: mode.into() }) }
}

/// As the kubelet calls for `uid-1`.
fn call(node: &Node) -> NodePublishVolumeRequest {
    let target = KubeletVolume::inline("models", IMAGE).target(node.root.path(), &KubeletPod::new("uid-1"));
    std::fs::create_dir_all(target.parent().unwrap()).unwrap();
    let pairs = [
        ("reference", IMAGE),
        ("csi.storage.k8s.io/ephemeral", "true"),
        ("csi.storage.k8s.io/pod.name", "web"),
        ("csi.storage.k8s.io/pod.namespace", "default"),
        ("csi.storage.k8s.io/pod.uid", "uid-1"),
    ];
    NodePublishVolumeRequest {
        volume_id: "csi-1".to_owned(),
        target_path: target.display().to_string(),
        volume_capability: Some(capability(AccessType::Mount(MountVolume::default()), Mode::SingleNodeWriter)),
        readonly: true,
        volume_context: pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        ..NodePublishVolumeRequest::default()
    }
}

async fn code(run: &Run, call: NodePublishVolumeRequest) -> Code {
    match run.node().node_publish_volume(call).await {
        Ok(_) => Code::Ok,
        Err(status) => status.code(),
    }
}

#[rstest]
#[case::unknown_attribute(|call: &mut NodePublishVolumeRequest| drop(call.volume_context.insert("x".into(), String::new())))]
#[case::empty_context(|call: &mut NodePublishVolumeRequest| call.volume_context.retain(|key, _| key != "reference"))]
#[case::block(|call: &mut NodePublishVolumeRequest| {
    call.volume_capability = Some(capability(AccessType::Block(BlockVolume {}), Mode::SingleNodeWriter));
})]
#[case::not_read_only(|call: &mut NodePublishVolumeRequest| call.readonly = false)]
#[case::outside(|call: &mut NodePublishVolumeRequest| call.target_path = "/etc/imagevol-test".into())]
#[case::climbing(|call: &mut NodePublishVolumeRequest| call.target_path += "/../../../../other")]
#[case::relative(|call: &mut NodePublishVolumeRequest| {
    call.target_path = "pods/uid-1/volumes/kubernetes.io~csi/models/mount".into();
})]
#[tokio::test]
async fn a_wrong_call_is_refused_and_asks_for_nothing(#[case] spoil: fn(&mut NodePublishVolumeRequest)) {
    let node = Node::new();
    let run = node.run();
    let mut call = call(&node);
    spoil(&mut call);
    assert_eq!(code(&run, call).await, Code::InvalidArgument);
    assert!(node.volumes.log().is_empty());
}

#[tokio::test]
async fn writer_modes_are_taken_and_published_once() {
    let node = Node::new();
    let run = node.run();
    for mode in [Mode::SingleNodeWriter, Mode::MultiNodeMultiWriter, Mode::MultiNodeReaderOnly] {
        let volume_capability = Some(capability(AccessType::Mount(MountVolume::default()), mode));
        assert_eq!(code(&run, NodePublishVolumeRequest { volume_capability, ..call(&node) }).await, Code::Ok);
    }
    assert_eq!((node.volumes.count("pull"), node.volumes.wanted().len()), (1, 1));
}

#[tokio::test]
async fn other_arguments_for_a_published_volume_are_a_conflict() {
    let node = Node::new();
    let run = node.run();
    assert_eq!(code(&run, call(&node)).await, Code::Ok);
    let mut other = call(&node);
    other.volume_context.insert("reference".to_owned(), "r.io/other:1".to_owned());
    assert_eq!(code(&run, other).await, Code::AlreadyExists);
    assert_eq!(code(&run, call(&node)).await, Code::Ok, "the first stays");
}

#[tokio::test]
async fn what_is_unknown_is_unpublished_already() {
    let node = Node::new();
    let run = node.run();
    let target_path = call(&node).target_path;
    for _ in 0..2 {
        let call = NodeUnpublishVolumeRequest { volume_id: "unknown".to_owned(), target_path: target_path.clone() };
        run.node().node_unpublish_volume(call).await.unwrap();
    }
    for (volume_id, target_path) in [("", &*target_path), ("v", ""), ("v", "/etc")] {
        let call = NodeUnpublishVolumeRequest { volume_id: volume_id.into(), target_path: target_path.into() };
        assert_eq!(run.node().node_unpublish_volume(call).await.unwrap_err().code(), Code::InvalidArgument);
    }
}

#[tokio::test(start_paused = true)]
async fn two_calls_for_one_volume_both_succeed() {
    let node = Node::new();
    node.volumes.pull_takes(IMAGE, 60);
    let run = node.run();
    let both = tokio::join!(code(&run, call(&node)), code(&run, call(&node)));
    assert_eq!((both, node.volumes.count("pull")), ((Code::Ok, Code::Ok), 1));
}

#[tokio::test(start_paused = true)]
async fn a_caller_may_go_away_at_any_moment() {
    for milliseconds in [0, 1, 10, 59_999, 60_000, 60_001, 109_999] {
        let node = Node::new();
        node.volumes.pull_takes(IMAGE, 60);
        let run = node.run();
        let gone = tokio::time::timeout(Duration::from_millis(milliseconds), code(&run, call(&node))).await;
        assert_eq!(gone.is_ok(), milliseconds >= 60_000, "after {milliseconds} ms");
        assert_eq!(code(&run, call(&node)).await, Code::Ok, "after {milliseconds} ms");
        assert_eq!(node.volumes.count("pull"), 1, "after {milliseconds} ms");
    }
}

#[rstest]
#[case::kubelets(120, 110)]
#[case::short(20, 18)]
#[case::none_left(0, 0)]
#[tokio::test(start_paused = true)]
async fn an_answer_comes_before_the_callers_deadline(#[case] deadline: u64, #[case] answered: u64) {
    let node = Node::new();
    node.volumes.pull_takes(IMAGE, 1000);
    let run = node.run();
    let mut call = Request::new(call(&node));
    call.set_timeout(Duration::from_secs(deadline));
    let begun = tokio::time::Instant::now();
    let failure = run.node().node_publish_volume(call).await.unwrap_err();
    assert_eq!((failure.code(), begun.elapsed().as_secs()), (Code::Aborted, answered));
    assert_eq!(node.volumes.wanted().len(), 1, "the pull goes on");
}

#[tokio::test]
async fn what_the_driver_does_not_have_is_said_so() {
    let node = Node::new();
    let run = node.run();
    let codes = [
        run.node().node_stage_volume(NodeStageVolumeRequest::default()).await.unwrap_err().code(),
        run.node().node_unstage_volume(NodeUnstageVolumeRequest::default()).await.unwrap_err().code(),
        run.node().node_expand_volume(NodeExpandVolumeRequest::default()).await.unwrap_err().code(),
    ];
    assert_eq!(codes, [Code::Unimplemented; 3]);
}

#[tokio::test]
async fn calls_are_counted_by_method_and_answer() {
    let node = Node::new();
    let run = node.run();
    for _ in 0..2 {
        run.node().node_get_info(NodeGetInfoRequest::default()).await.unwrap();
    }
    run.node().node_stage_volume(NodeStageVolumeRequest::default()).await.unwrap_err();
    run.identity().probe(ProbeRequest::default()).await.unwrap();
    let (mut registry, mut text) = (Registry::default(), String::new());
    node.metrics.register(&mut registry);
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    let mut counted: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
    counted.sort_unstable();
    assert_eq!(
        counted,
        [
            r#"imagevol_csi_operations_total{method_name="/csi.v1.Identity/Probe",grpc_status_code="OK"} 1"#,
            r#"imagevol_csi_operations_total{method_name="/csi.v1.Node/NodeGetInfo",grpc_status_code="OK"} 2"#,
            r#"imagevol_csi_operations_total{method_name="/csi.v1.Node/NodeStageVolume",grpc_status_code="Unimplemented"} 1"#,
        ]
    );
}

#[tokio::test]
async fn only_what_is_published_has_stats() {
    let node = Node::new();
    let run = node.run();
    let stats = |volume_id: &str, volume_path: &str| {
        let (volume_id, volume_path) = (volume_id.to_owned(), volume_path.to_owned());
        let call = NodeGetVolumeStatsRequest { volume_id, volume_path, ..NodeGetVolumeStatsRequest::default() };
        let mut client = run.node();
        async move { client.node_get_volume_stats(call).await.map(drop).unwrap_err().code() }
    };
    let path = call(&node).target_path;
    assert_eq!([stats("", &path).await, stats("v", "").await], [Code::InvalidArgument; 2]);
    assert_eq!([stats("v", &path).await, stats("v", "some/path").await], [Code::NotFound; 2]);
    // A directory in the place of a mount has the numbers of another file system.
    assert_eq!(code(&run, call(&node)).await, Code::Ok);
    assert_eq!(stats("csi-1", &path).await, Code::NotFound);
}

#[tokio::test]
async fn the_driver_says_who_it_is() {
    let node = Node::new();
    let run = node.run();
    let info = run.identity().get_plugin_info(GetPluginInfoRequest {}).await.unwrap().into_inner();
    assert_eq!((&*info.name, &*info.vendor_version), ("csi.imagevol.dev", "1.2.3"));
    let capabilities = run.identity().get_plugin_capabilities(GetPluginCapabilitiesRequest {}).await.unwrap();
    assert!(capabilities.into_inner().capabilities.is_empty());
    assert_eq!(run.driver().node_id().await.unwrap(), "node-1");
    assert_eq!(run.identity().probe(ProbeRequest {}).await.unwrap().into_inner().ready, Some(true));
}
