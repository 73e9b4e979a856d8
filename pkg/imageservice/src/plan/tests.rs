use std::collections::BTreeMap;

use rstest::rstest;

use super::*;

const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const OCI_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

fn digest(hex: char) -> Digest {
    Digest::new(imagevol_api::oci::Algorithm::Sha256, &hex.to_string().repeat(64)).unwrap()
}

fn descriptor(media_type: &str, hex: char, annotations: &[(&str, &str)]) -> Descriptor {
    let annotations = annotations.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    Descriptor { media_type: media_type.to_owned(), digest: digest(hex), size: 1, annotations }
}

fn manifest(config: &str, layers: Vec<Descriptor>) -> Manifest {
    Manifest {
        media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
        config: descriptor(config, 'c', &[]),
        layers,
        artifact_type: None,
        annotations: BTreeMap::new(),
    }
}

#[rstest]
#[case::no_list(r#"{"rootfs":{"type":"layers"}}"#)]
#[case::null(r#"{"rootfs":{"type":"layers","diff_ids":null}}"#)]
#[case::empty(r#"{"rootfs":{"type":"layers","diff_ids":[]}}"#)]
#[case::nothing("{}")]
fn an_image_of_no_layers_needs_no_diff_ids(#[case] config: &str) {
    assert_eq!(plan(&manifest(OCI_CONFIG, Vec::new()), config.as_bytes()).unwrap(), []);
}

#[rstest]
#[case::nothing("", "image configuration cannot be read")]
#[case::no_json("<html>", "image configuration cannot be read")]
#[case::hostile_diff_id(r#"{"rootfs":{"diff_ids":["sha256:../../etc"]}}"#, "image configuration cannot be read")]
#[case::empty("{}", "image configuration names 0 layers, the manifest 1")]
fn an_image_whose_config_does_not_fit_is_refused(#[case] config: &str, #[case] expected: &str) {
    let manifest = manifest(OCI_CONFIG, vec![descriptor(OCI_GZIP, 'a', &[])]);
    let error = plan(&manifest, config.as_bytes()).unwrap_err().to_string();
    assert!(error.starts_with(expected), "{error}");
}

#[test]
fn layers_are_held_against_the_diff_ids_in_their_order() {
    let manifest = manifest(OCI_CONFIG, vec![descriptor(OCI_GZIP, 'a', &[]), descriptor(OCI_GZIP, 'b', &[])]);
    let config = format!(r#"{{"rootfs":{{"diff_ids":["{}","{}"]}}}}"#, digest('1'), digest('2'));
    let plans = plan(&manifest, config.as_bytes()).unwrap();
    let form = |hex| Form::Layer { compression: Compression::Gzip, diff_id: Some(digest(hex)) };
    assert_eq!(plans.iter().map(|plan| plan.form.clone()).collect::<Vec<_>>(), [form('1'), form('2')]);
    assert!(plans.iter().all(|plan| plan.title.is_none()));
}

#[rstest]
#[case::titled("text/plain", &[("org.opencontainers.image.title", "a/b")], Form::Blob, Some("a/b"))]
#[case::untitled("text/plain", &[], Form::Blob, None)]
#[case::tar(OCI_GZIP, &[], Form::Layer { compression: Compression::Gzip, diff_id: None }, None)]
#[case::file_of_oras("application/vnd.oci.image.layer.v1.tar", &[("org.opencontainers.image.title", "a")], Form::Blob, Some("a"))]
#[case::titled_tar(OCI_GZIP, &[("org.opencontainers.image.title", "a")], Form::Layer { compression: Compression::Gzip, diff_id: None }, None)]
#[case::marked("application/octet-stream", &[("io.deis.oras.content.unpack", "true"), ("org.opencontainers.image.title", "a")], Form::Layer { compression: Compression::Detect, diff_id: None }, None)]
#[case::not_marked("application/octet-stream", &[("io.deis.oras.content.unpack", "false"), ("org.opencontainers.image.title", "a")], Form::Blob, Some("a"))]
fn files_and_tars_of_an_artifact(
    #[case] media_type: &str,
    #[case] annotations: &[(&str, &str)],
    #[case] form: Form,
    #[case] title: Option<&str>,
) {
    let manifest = manifest("application/vnd.oci.empty.v1+json", vec![descriptor(media_type, 'a', annotations)]);
    // Whatever the config holds: it is not read.
    let plans = plan(&manifest, b"\xff").unwrap();
    let untitled = digest('a').to_string();
    let title = if form == Form::Blob { Some(title.unwrap_or(&untitled)) } else { None };
    assert_eq!((plans[0].form.clone(), plans[0].title.as_deref()), (form, title));
}

#[rstest]
#[case("../../etc/passwd")]
#[case("/etc/passwd")]
#[case("a\nb")]
fn hostile_titles_are_refused(#[case] title: &str) {
    let layer = descriptor("text/plain", 'a', &[("org.opencontainers.image.title", title)]);
    let error = plan(&manifest("application/vnd.oci.empty.v1+json", vec![layer]), b"{}").unwrap_err();
    assert!(matches!(error, PlanError::Title { .. }), "{error}");
}
