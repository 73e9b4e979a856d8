use imagevol_api::csi::volume_capability::{AccessMode, BlockVolume, MountVolume, access_mode::Mode};
use imagevol_images::PullPolicy;
use rstest::rstest;
use secrecy::ExposeSecret;
use tonic::{Code, Status};

use super::*;

const ROOT: &str = "/var/lib/kubelet";
const TARGET: &str = "/var/lib/kubelet/pods/uid-1/volumes/kubernetes.io~csi/models/mount";

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn mount(mount: MountVolume, mode: Mode) -> VolumeCapability {
    let access_mode = Some(AccessMode { mode: mode.into() });
    VolumeCapability { access_type: Some(AccessType::Mount(mount)), access_mode }
}

/// As a kubelet calls for an inline volume.
fn call() -> NodePublishVolumeRequest {
    NodePublishVolumeRequest {
        volume_id: "csi-0b5a".to_owned(),
        target_path: TARGET.to_owned(),
        volume_capability: Some(mount(MountVolume::default(), Mode::SingleNodeWriter)),
        readonly: true,
        volume_context: map(&[
            ("reference", "r.io/a:1"),
            ("csi.storage.k8s.io/ephemeral", "true"),
            ("csi.storage.k8s.io/pod.name", "web"),
            ("csi.storage.k8s.io/pod.namespace", "shop"),
            ("csi.storage.k8s.io/pod.uid", "uid-1"),
            ("csi.storage.k8s.io/serviceAccount.name", "robot"),
        ]),
        ..NodePublishVolumeRequest::default()
    }
}

fn with_context(pairs: &[(&str, &str)]) -> NodePublishVolumeRequest {
    let mut call = call();
    call.volume_context.extend(map(pairs));
    call
}

fn without(key: &str) -> NodePublishVolumeRequest {
    let mut call = call();
    call.volume_context.remove(key);
    call
}

fn read(call: NodePublishVolumeRequest) -> Result<Publication, Refusal> {
    Publication::read(call, Path::new(ROOT))
}

fn refused(call: NodePublishVolumeRequest) -> (Code, String) {
    let status = Status::from(read(call).unwrap_err());
    (status.code(), status.message().to_owned())
}

#[test]
fn reads_a_kubelets_call() {
    let Publication { target, request } = read(with_context(&[("pullPolicy", "Always")])).unwrap();
    assert_eq!(target.below(Path::new(ROOT)), Path::new(TARGET));
    assert_eq!((&*request.reference, request.policy), ("r.io/a:1", Some(PullPolicy::Always)));
    let meta = &request.pod.metadata;
    let names = (meta.namespace.as_deref(), meta.name.as_deref(), meta.uid.as_deref());
    assert_eq!(names, (Some("shop"), Some("web"), Some("uid-1")));
    assert_eq!(request.pod.spec.as_ref().unwrap().service_account_name.as_deref(), Some("robot"));
    let account = request.claims.service_account.as_ref().unwrap();
    assert_eq!((&*account.namespace, &*account.name, account.tokens.len()), ("shop", "robot", 0));
    assert!(request.claims.secrets.is_empty());
}

#[rstest]
#[case::no_volume(NodePublishVolumeRequest { volume_id: String::new(), ..call() }, "volume_id is required")]
#[case::no_target(NodePublishVolumeRequest { target_path: String::new(), ..call() }, "target_path is required")]
#[case::no_capability(
    NodePublishVolumeRequest { volume_capability: None, ..call() },
    "volume_capability is required"
)]
#[case::no_type(
    NodePublishVolumeRequest {
        volume_capability: Some(VolumeCapability { access_mode: Some(AccessMode::default()), access_type: None }),
        ..call()
    },
    "volume_capability.access_type is required"
)]
#[case::no_mode(
    NodePublishVolumeRequest {
        volume_capability: Some(VolumeCapability {
            access_mode: None,
            access_type: Some(AccessType::Mount(MountVolume::default())),
        }),
        ..call()
    },
    "volume_capability.access_mode is required"
)]
#[case::block(
    NodePublishVolumeRequest {
        volume_capability: Some(VolumeCapability {
            access_mode: Some(AccessMode::default()),
            access_type: Some(AccessType::Block(BlockVolume {})),
        }),
        ..call()
    },
    "an image is a tree of files: it cannot be mounted as a block device"
)]
#[case::fs_type(
    NodePublishVolumeRequest {
        volume_capability: Some(mount(MountVolume { fs_type: "ext4".into(), ..Default::default() }, Mode::SingleNodeWriter)),
        ..call()
    },
    "fsType cannot be chosen: an image is mounted as it is"
)]
#[case::flags(
    NodePublishVolumeRequest {
        volume_capability: Some(mount(
            MountVolume { mount_flags: vec!["password=hunter2".into()], ..Default::default() },
            Mode::SingleNodeWriter,
        )),
        ..call()
    },
    "mount options cannot be chosen: an image is mounted read-only, nosuid and nodev"
)]
#[case::group(
    NodePublishVolumeRequest {
        volume_capability: Some(mount(
            MountVolume { volume_mount_group: "7".into(), ..Default::default() },
            Mode::SingleNodeWriter,
        )),
        ..call()
    },
    "the group of an image's files cannot be chosen: an image is mounted as it is"
)]
#[case::other_pod(
    NodePublishVolumeRequest { target_path: TARGET.replace("uid-1", "uid-2"), ..call() },
    "the target path is in the directory of another pod"
)]
#[case::no_reference(without("reference"), "volume attribute reference is required: the image to mount")]
#[case::unknown(
    with_context(&[("pullpolicy", "Never")]),
    "unknown volume attribute \"pullpolicy\"; known are reference (or image), pullPolicy (or pullAlways), platform"
)]
#[case::other_secret(
    NodePublishVolumeRequest { secrets: map(&[("password", "hunter2")]), ..call() },
    "the secret of nodePublishSecretRef has neither a key .dockerconfigjson nor a key .dockercfg"
)]
#[case::tokens(
    with_context(&[("csi.storage.k8s.io/serviceAccount.tokens", r#"{"registry": "hunter2"}"#)]),
    "the service account tokens of the kubelet cannot be read"
)]
fn refuses_what_is_wrong_in_the_call(#[case] call: NodePublishVolumeRequest, #[case] message: &str) {
    assert_eq!(refused(call), (Code::InvalidArgument, message.to_owned()));
}

#[rstest]
#[case("/etc")]
#[case("/var/lib/kubelet/pods/uid-1/volumes/kubernetes.io~csi/../../../../../etc/mount")]
#[case("/var/lib/kubelet/pods/uid-1/volumes/kubernetes.io~empty-dir/models/mount")]
#[case("/mnt/kubelet/pods/uid-1/volumes/kubernetes.io~csi/models/mount")]
fn refuses_a_target_elsewhere(#[case] path: &str) {
    let (code, message) = refused(NodePublishVolumeRequest { target_path: path.to_owned(), ..call() });
    assert_eq!(code, Code::InvalidArgument);
    assert!(message.contains("is not of the form"), "{message}");
}

#[test]
fn says_why_read_only_is_required() {
    for (ephemeral, place) in
        [("true", "the volume's csi section"), ("false", "the pod's persistentVolumeClaim section")]
    {
        let call = with_context(&[("csi.storage.k8s.io/ephemeral", ephemeral)]);
        let (code, message) = refused(NodePublishVolumeRequest { readonly: false, ..call });
        let why = "the mount is read-only, and without it the kubelet has the container runtime relabel its files on nodes with \
                   SELinux, which fails";
        assert_eq!((code, message), (Code::InvalidArgument, format!("readOnly: true is required in {place}: {why}")));
    }
}

#[test]
fn who_is_no_kubelet_need_not_say_read_only() {
    assert!(read(NodePublishVolumeRequest { readonly: false, ..without("csi.storage.k8s.io/ephemeral") }).is_ok());
}

#[rstest]
#[case("csi.storage.k8s.io/pod.name")]
#[case("csi.storage.k8s.io/pod.namespace")]
#[case("csi.storage.k8s.io/pod.uid")]
fn the_pod_has_to_be_told(#[case] key: &str) {
    let (code, message) = refused(without(key));
    assert_eq!(code, Code::FailedPrecondition);
    assert!(message.contains("podInfoOnMount: true"), "{message}");
}

#[test]
fn the_platform_is_carried() {
    let read = Publication::read(with_context(&[("platform", "linux/arm64")]), Path::new(ROOT)).unwrap();
    assert_eq!(read.request.platform.unwrap().as_str(), "linux/arm64");
}

#[test]
fn takes_every_access_mode() {
    for mode in 0..=7 {
        let mode = Mode::try_from(mode).unwrap();
        assert!(
            read(NodePublishVolumeRequest { volume_capability: Some(mount(MountVolume::default(), mode)), ..call() })
                .is_ok()
        );
    }
}

#[test]
fn reads_pull_secrets_of_both_forms() {
    let secrets = map(&[(".dockerconfigjson", "json"), (".dockercfg", "cfg"), ("other", "x")]);
    let claims = read(NodePublishVolumeRequest { secrets, ..call() }).unwrap().request.claims;
    let data: Vec<_> = claims.secrets.iter().map(|secret| secret.data.expose_secret()).collect();
    assert_eq!(data, [b"cfg".as_slice(), b"json"]);
    let coordinates = &claims.secrets[0].coordinates;
    assert_eq!((&*coordinates.namespace, &*coordinates.name, &*coordinates.uid), ("shop", "", ""));
}

#[test]
fn tokens_in_secrets_win_over_those_in_attributes() {
    let key = "csi.storage.k8s.io/serviceAccount.tokens";
    let of = |token: &str| format!(r#"{{"aud":{{"token":"{token}","expirationTimestamp":"2030-01-01T00:00:00Z"}}}}"#);
    let old = with_context(&[(key, &of("old"))]);
    let token = |call| {
        let claims = read(call).unwrap().request.claims;
        claims.service_account.as_ref().unwrap().tokens["aud"].expose_secret().to_owned()
    };
    assert_eq!(token(old.clone()), "old");
    assert_eq!(token(NodePublishVolumeRequest { secrets: map(&[(key, &of("new"))]), ..old }), "new");
}

#[test]
fn nothing_that_is_read_shows_a_secret() {
    let tokens = r#"{"aud":{"token":"hunter2"}}"#;
    let mut call = with_context(&[("csi.storage.k8s.io/serviceAccount.tokens", tokens)]);
    call.secrets = map(&[(".dockerconfigjson", "hunter2")]);
    assert!(!format!("{:?}", read(call).unwrap()).contains("hunter2"));
}
