mod documentation;

use rstest::rstest;

use super::*;

const HEAD: &str = "apiVersion: imagevol.dev/v1alpha1\nkind: ImagevolConfiguration\n";

fn parse(rest: &str) -> Result<ImagevolConfiguration, ConfigError> {
    ImagevolConfiguration::parse(&format!("{HEAD}{rest}"))
}

/// The error and its causes, as a daemon prints them.
fn error(rest: &str) -> String {
    let error = parse(rest).unwrap_err();
    std::error::Error::source(&error).map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}

#[test]
fn a_file_with_a_head_only_is_the_default() {
    let configuration = parse("").unwrap();
    assert_eq!(configuration, ImagevolConfiguration::default());
    assert_eq!(configuration.root_dir(), Path::new("/var/lib/imagevol/kubelet"));
    assert_eq!(configuration.socket(), Path::new("/run/imagevol/imagevold.sock"));
    configuration.validate().unwrap();
}

#[test]
fn every_field_survives_a_round_trip() {
    let full = ImagevolConfiguration {
        root_dir: Some("/r".into()),
        socket: Some("/s".into()),
        node_name: Some("n".into()),
        max_parallel_image_pulls: Some(4),
        platform: Some("linux/arm64/v8".into()),
        plain_http_registries: vec!["r.example:5000".into(), "[fd00::1]:5000".into()],
        image_backend: ImageBackend::ErofsLoop,
        image_pull_credentials_verification_policy:
            ImagePullCredentialsVerificationPolicy::NeverVerifyAllowlistedImages,
        preloaded_images_verification_allowlist: vec!["r.example/*".into()],
        logging: LoggingConfiguration { format: LogFormat::Json, verbosity: 4 },
        image_credential_provider_config: Some("/c".into()),
        image_credential_provider_bin_dir: Some("/b".into()),
        additional_image_stores: vec![
            AdditionalImageStore { path: "/nfs".into(), repository: Some("r.example/models".into()) },
            AdditionalImageStore { path: "/mnt".into(), repository: None },
        ],
        csi: Some(CsiConfiguration { endpoint: Some("/e".into()), ..CsiConfiguration::default() }),
        kubernetes: Some(KubernetesConfiguration { image_pull_secrets: true, ..KubernetesConfiguration::default() }),
        ..ImagevolConfiguration::default()
    };
    let yaml = serde_saphyr::to_string(&full).unwrap();
    assert_eq!(ImagevolConfiguration::parse(&yaml).unwrap(), full, "{yaml}");
}

#[test]
fn names_are_those_of_the_kubelets_configuration() {
    let configuration = parse(
        "registryPullQPS: 5\nregistryBurst: 7\nserializeImagePulls: true\nmaxParallelImagePulls: 1\nstaticPodPath: /m\n\
         fileCheckFrequency: 1m30s\neventTTL: 2h\nshutdownGracePeriod: 0s\npullFailurePolicy: Retry\n\
         imagePullCredentialsVerificationPolicy: AlwaysVerify\nlogging: {format: json, verbosity: 2}\n\
         limits: {maxLayerBytes: 100Gi, maxIndexBytes: 1048576}\nplainHTTPRegistries: [localhost:5000]\n\
         imageGCHighThresholdPercent: 90\nimageGCLowThresholdPercent: 70\nimageMinimumGCAge: 1m\nimageMaximumGCAge: 168h\n",
    )
    .unwrap();
    assert_eq!((configuration.image_gc_high_threshold_percent, configuration.image_gc_low_threshold_percent), (90, 70));
    assert_eq!(configuration.image_minimum_gc_age, Duration::from_secs(60));
    assert_eq!(configuration.image_maximum_gc_age, Duration::from_secs(7 * 24 * 60 * 60));
    assert_eq!((configuration.registry_pull_qps, configuration.registry_burst), (5, 7));
    assert_eq!(configuration.file_check_frequency, Duration::from_secs(90));
    assert_eq!(configuration.limits.max_layer_bytes.get(), 100 << 30);
    assert_eq!(configuration.limits.max_index_bytes.get(), 1 << 20);
    assert_eq!(configuration.limits.max_image_bytes, Limits::default().max_image_bytes);
}

#[rstest]
#[case("stateDirectory: /x\n", "stateDirectory")]
#[case("limits: {maxBytes: 1}\n", "maxBytes")]
#[case("stateDir: /x\nstateDir: /y\n", "duplicate")]
#[case("pullDeadline: 5\n", "missing unit in duration")]
#[case("pullDeadline: -5m\n", "negative")]
#[case("imageBackend: overlay\n", "overlay")]
#[case("registryPullQPS: -1\n", "line 3")]
#[case("limits: {maxLayerBytes: -1}\n", "negative")]
#[case("metricsAddress: nowhere\n", "line 3")]
fn refuses_what_it_does_not_know(#[case] rest: &str, #[case] part: &str) {
    assert!(error(rest).contains(part), "{}", error(rest));
}

#[rstest]
#[case("stateDir: x\n", r#"stateDir: Invalid value: "x": must be an absolute path without '..'"#)]
#[case("rootDir: /a/../b\n", r#"rootDir: Invalid value: "/a/../b": must be an absolute path without '..'"#)]
#[case(
    "dockerConfigDirs: [/a, b]\n",
    r#"dockerConfigDirs[1]: Invalid value: "b": must be an absolute path without '..'"#
)]
#[case("pullDeadline: 0s\n", r#"pullDeadline: Invalid value: "0s": must be greater than zero"#)]
#[case("logging: {verbosity: 11}\n", "logging.verbosity: Invalid value: 11: must be no more than 10")]
#[case("maxBlobsPerPull: 0\n", "maxBlobsPerPull: Invalid value: 0: must be a positive number")]
#[case(
    "serializeImagePulls: true\nmaxParallelImagePulls: 2\n",
    "maxParallelImagePulls: Forbidden: cannot be larger than 1 unless serializeImagePulls is set to false"
)]
#[case(
    "registryPullQPS: 1\nregistryBurst: 0\n",
    "registryBurst: Invalid value: 0: must be a positive number if registryPullQPS is set"
)]
#[case(
    "preloadedImagesVerificationAllowlist: [r.io/a]\n",
    "preloadedImagesVerificationAllowlist: Forbidden: can only be set if imagePullCredentialsVerificationPolicy is NeverVerifyAllowlistedImages"
)]
#[case("imagePullCredentialsVerificationPolicy: NeverVerifyAllowlistedImages\npreloadedImagesVerificationAllowlist: ['r.io/a:1']\n",
    r#"preloadedImagesVerificationAllowlist[0]: Invalid value: "r.io/a:1": neither tag nor digest is accepted in an image reference: r.io/a:1"#)]
#[case(
    "plainHTTPRegistries: ['http://r.io']\n",
    r#"plainHTTPRegistries[0]: Invalid value: "http://r.io": must be a host or host:port"#
)]
#[case(
    "platform: linux\n",
    r#"platform: Invalid value: "linux": must be os/architecture or os/architecture/variant, in lower case"#
)]
#[case("limits: {maxImageLayers: 0}\n", "limits.maxImageLayers: Invalid value: 0: must be a positive number")]
#[case(
    "imageGCHighThresholdPercent: 101\n",
    "imageGCHighThresholdPercent: Invalid value: 101: invalid HighThresholdPercent 101, must be in range [0-100]"
)]
#[case(
    "imageGCHighThresholdPercent: 50\n",
    "imageGCLowThresholdPercent: Invalid value: 80: LowThresholdPercent 80 can not be higher than HighThresholdPercent 50"
)]
#[case(
    "additionalImageStores: [{path: x}]\n",
    r#"additionalImageStores[0].path: Invalid value: "x": must be an absolute path without '..'"#
)]
#[case(
    "additionalImageStores: [{path: /x, repository: 'r.io/a:1'}]\n",
    r#"additionalImageStores[0].repository: Invalid value: "r.io/a:1": must be an image name without tag or digest"#
)]
#[case("scrub: {maxBytesPerSecond: 0}\n", "scrub.maxBytesPerSecond: Invalid value: 0: must be a positive number")]
fn names_the_field_that_is_wrong(#[case] rest: &str, #[case] message: &str) {
    assert_eq!(error(rest), format!("configuration is invalid: {message}"));
}

#[test]
fn several_errors_come_together() {
    let Err(ConfigError::Invalid(errors)) = parse("stateDir: x\nrunDir: y\n") else { panic!("invalid") };
    assert_eq!(errors.iter().map(FieldError::field).collect::<Vec<_>>(), ["stateDir", "runDir"]);
}

#[rstest]
#[case("kind: KubeletConfiguration\napiVersion: kubelet.config.k8s.io/v1beta1\nunknown: 1\n")]
#[case("stateDir: /x\n")]
#[case("")]
fn refuses_other_kinds(#[case] yaml: &str) {
    assert!(matches!(ImagevolConfiguration::parse(yaml), Err(ConfigError::Type { .. })), "{yaml:?}");
}

#[test]
fn refuses_long_socket_paths_and_files() {
    assert!(
        error(&format!("socket: /{}\n", "x".repeat(107))).contains("socket: Too long: may not be more than 107 bytes")
    );
    assert!(matches!(parse(&"#".repeat(MAX_CONFIG_BYTES)), Err(ConfigError::TooLarge)));
}
