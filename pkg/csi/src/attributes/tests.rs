use proptest::prelude::*;
use rstest::rstest;

use super::*;

fn parse(pairs: &[(&str, &str)]) -> Result<Attributes, AttributeError> {
    Attributes::parse(&pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
}

#[rstest]
#[case::default(&[("reference", "r.io/a:1")], None, None)]
#[case::alias(&[("image", "r.io/a:1")], None, None)]
#[case::policy(&[("reference", "r.io/a:1"), ("pullPolicy", "Never")], Some(PullPolicy::Never), None)]
#[case::pull_always(&[("image", "r.io/a:1"), ("pullAlways", "true")], Some(PullPolicy::Always), None)]
#[case::pull_once(&[("image", "r.io/a:1"), ("pullAlways", "false")], Some(PullPolicy::IfNotPresent), None)]
#[case::platform(&[("reference", "r.io/a:1"), ("platform", "linux/arm/v7")], None, Some("linux/arm/v7"))]
#[case::empty_is_absent(&[("reference", "r.io/a:1"), ("image", ""), ("pullPolicy", ""), ("platform", "")], None, None)]
#[case::kubelets(&[("reference", "r.io/a:1"), ("csi.storage.k8s.io/pod.name", "p"), ("csi.storage.k8s.io/later", "x")], None, None)]
fn reads(#[case] written: &[(&str, &str)], #[case] policy: Option<PullPolicy>, #[case] platform: Option<&str>) {
    assert_eq!(
        parse(written),
        Ok(Attributes {
            reference: "r.io/a:1".to_owned(),
            policy,
            platform: platform.map(|text| text.parse().unwrap())
        })
    );
}

#[test]
fn keeps_the_reference_as_it_is_written() {
    for text in ["busybox", "UPPER:1", "a b"] {
        assert_eq!(parse(&[("reference", text)]).unwrap().reference, text);
    }
}

#[rstest]
#[case(&[], "volume attribute reference is required: the image to mount")]
#[case(&[("reference", "")], "volume attribute reference is required: the image to mount")]
#[case(
    &[("reference", "a"), ("pullpolicy", "Never")],
    "unknown volume attribute \"pullpolicy\"; known are reference (or image), pullPolicy (or pullAlways), platform"
)]
#[case(
    &[("reference", "a"), ("\u{1b}[2J", "")],
    "unknown volume attribute \"\\u{1b}[2J\"; known are reference (or image), pullPolicy (or pullAlways), platform"
)]
#[case(&[("reference", "a"), ("image", "a")], "volume attributes reference and image mean the same: give one of them")]
#[case(
    &[("reference", "a"), ("pullPolicy", "Always"), ("pullAlways", "true")],
    "volume attributes pullPolicy and pullAlways mean the same: give one of them"
)]
#[case(
    &[("reference", "a"), ("pullPolicy", "always")],
    "volume attribute pullPolicy \"always\": must be Always, IfNotPresent or Never"
)]
#[case(&[("reference", "a"), ("pullAlways", "1")], "volume attribute pullAlways \"1\": must be \"true\" or \"false\"")]
#[case(
    &[("reference", "a"), ("platform", "linux")],
    "volume attribute platform \"linux\": must be os/architecture or os/architecture/variant, in lower case"
)]
#[case(
    &[("reference", "a"), ("platform", "linux/../amd64")],
    "volume attribute platform \"linux/../amd64\": must be os/architecture or os/architecture/variant, in lower case"
)]
fn refuses_with_a_reason(#[case] written: &[(&str, &str)], #[case] message: &str) {
    assert_eq!(parse(written).unwrap_err().to_string(), message);
}

proptest! {
    #[test]
    fn every_refusal_is_one_short_line(key in any::<String>(), value in any::<String>()) {
        for key in [&*key, "reference", "pullPolicy", "pullAlways", "platform"] {
            if let Err(error) = parse(&[(key, &value)]) {
                let message = error.to_string();
                prop_assert!(message.len() < 2000 && !message.chars().any(char::is_control), "{:?}", message);
            }
        }
    }
}
