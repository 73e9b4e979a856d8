use bytes::Bytes;
use imagevol_api::auth::Credential;
use imagevol_api::oci::Digest;
use imagevol_registry::{BlobStream, Registry, RegistryError};
use imagevol_test_support::registry::{Content, FakeRegistry, Fault, Gate, Request};
use rstest::rstest;

use crate::harness::{client, descriptor, parse, read};

const SIZE: u64 = 300_000;

fn content() -> Content {
    Content::Generated { seed: 1, size: SIZE }
}

fn bytes() -> Vec<u8> {
    let mut all = Vec::new();
    while all.len() < usize::try_from(SIZE).unwrap() {
        all.extend_from_slice(&content().chunk(u64::try_from(all.len()).unwrap(), SIZE));
    }
    all
}

async fn start() -> (FakeRegistry, Digest) {
    let registry = FakeRegistry::start().await;
    let digest = registry.put_blob("data", content());
    (registry, digest)
}

async fn open(
    client: &Registry,
    registry: &FakeRegistry,
    digest: &Digest,
    from: u64,
) -> Result<BlobStream, RegistryError> {
    let reference = parse(&registry.reference("data", "x"));
    client.fetch(&reference, &descriptor(digest, SIZE), from, &Credential::Anonymous).await
}

async fn fetch(registry: &FakeRegistry, digest: &Digest, from: u64) -> Result<Vec<u8>, RegistryError> {
    read(open(&client(), registry, digest, from).await?).await
}

#[rstest]
#[case(0)]
#[case(1)]
#[case(SIZE - 1)]
#[case(SIZE)]
#[tokio::test]
async fn streams_from_where_it_is_told(#[case] from: u64) {
    let (registry, digest) = start().await;
    let wanted = &bytes()[usize::try_from(from).unwrap()..];
    assert_eq!(fetch(&registry, &digest, from).await.unwrap(), wanted);
    assert_eq!(registry.gets("/blobs/"), usize::from(from < SIZE));
    registry.faults().always("/blobs/", Fault::IgnoreRange);
    assert_eq!(fetch(&registry, &digest, from).await.unwrap(), wanted, "a host without ranges");
    registry.faults().always("/blobs/", Fault::NoLength);
    assert_eq!(fetch(&registry, &digest, from).await.unwrap(), wanted, "without a length");
}

#[tokio::test]
async fn asks_for_no_encoding() {
    let (registry, digest) = start().await;
    fetch(&registry, &digest, 5).await.unwrap();
    let request = &registry.requests()[0];
    assert!(!request.headers.contains_key("accept-encoding"), "{request:?}");
    assert_eq!(request.headers["range"], "bytes=5-");
}

#[tokio::test]
async fn resumes_where_the_connection_broke() {
    let (registry, digest) = start().await;
    for at in [0, 1, 65_536] {
        registry.faults().once("/blobs/", Fault::Truncate(at));
    }
    assert_eq!(fetch(&registry, &digest, 0).await.unwrap(), bytes());
    let range = |request: &Request| request.headers.get("range").map(|value| value.to_str().unwrap().to_owned());
    let ranges: Vec<_> = registry.requests().iter().map(range).collect();
    assert_eq!(ranges, [None, None, Some("bytes=1-".to_owned()), Some("bytes=65537-".to_owned())]);
}

#[tokio::test]
async fn survives_a_break_at_any_byte() {
    let (registry, digest) = start().await;
    let client = client();
    for at in (0..50).map(|n| n * 6007) {
        registry.faults().clear();
        registry.faults().once("/blobs/", Fault::Truncate(at));
        let stream = open(&client, &registry, &digest, 0).await.unwrap();
        assert_eq!(read(stream).await.unwrap(), bytes(), "{at}");
    }
}

#[tokio::test]
async fn gives_up_when_nothing_comes_any_more() {
    let (registry, digest) = start().await;
    registry.faults().always("/blobs/", Fault::Shorten(1000));
    let error = fetch(&registry, &digest, 0).await.unwrap_err();
    assert!(matches!(error, RegistryError::Truncated { expected: SIZE, .. }), "{error:?}");
    assert!(!error.is_final());
    assert_eq!(registry.gets("/blobs/"), 4);
}

#[tokio::test]
async fn a_body_without_length_that_ends_early_is_resumed() {
    let (registry, digest) = start().await;
    registry.faults().once("/blobs/", Fault::Shorten(1000));
    registry.faults().once("/blobs/", Fault::NoLength);
    assert_eq!(fetch(&registry, &digest, 0).await.unwrap(), bytes());
    assert_eq!(registry.requests()[1].headers["range"], "bytes=1000-");
}

#[rstest]
#[case::declared(false)]
#[case::endless(true)]
#[tokio::test]
async fn never_hands_out_more_than_the_descriptor_says(#[case] chunked: bool) {
    let (registry, digest) = start().await;
    registry.faults().always("/blobs/", Fault::Overlong(1));
    if chunked {
        registry.faults().always("/blobs/", Fault::NoLength);
    }
    let error = fetch(&registry, &digest, 0).await.unwrap_err();
    assert!(matches!(error, RegistryError::TooLarge { limit: SIZE, .. }), "{error:?}");
    assert_eq!(registry.gets("/blobs/"), 1, "a wrong blob is not asked for again");
}

#[rstest]
#[case("bytes 0-299999/300000")]
#[case("bytes 11-299999/300000")]
#[case("bytes 10-299998/300000")]
#[case("bytes 10-299999/400000")]
#[case("")]
#[tokio::test]
async fn never_splices_a_wrong_range(#[case] said: &str) {
    let (registry, digest) = start().await;
    registry.faults().always("/blobs/", Fault::Header("content-range".to_owned(), said.to_owned()));
    let error = fetch(&registry, &digest, 10).await.unwrap_err();
    assert!(matches!(error, RegistryError::Range { from: 10, .. }), "{error:?}");
}

#[tokio::test]
async fn a_range_that_cannot_be_satisfied_is_asked_for_whole() {
    let (registry, digest) = start().await;
    registry.faults().once("/blobs/", Fault::status(416));
    assert_eq!(fetch(&registry, &digest, 10).await.unwrap(), &bytes()[10..]);
    assert!(!registry.requests()[1].headers.contains_key("range"));
}

#[tokio::test]
async fn a_missing_blob_is_final() {
    let (registry, digest) = start().await;
    registry.remove_blob("data", &digest);
    let error = fetch(&registry, &digest, 0).await.unwrap_err();
    let expected = format!(
        "registry {}: blob unknown: blob unknown to registry (404 Not Found): repository \"data\", blob {digest}",
        registry.host()
    );
    assert_eq!(error.to_string(), expected);
    assert!(error.is_final());
}

#[tokio::test]
async fn waits_out_throttling_and_outages() {
    let (registry, digest) = start().await;
    registry.faults().once("/blobs/", Fault::throttle(Some("0")));
    registry.faults().once("/blobs/", Fault::status(502));
    registry.faults().once("/blobs/", Fault::Hangup);
    assert_eq!(fetch(&registry, &digest, 0).await.unwrap(), bytes());
}

#[tokio::test]
async fn a_stalled_stream_can_be_dropped_and_goes_on_when_bytes_come() {
    let (registry, digest) = start().await;
    let gate = Gate::new();
    registry.faults().once("/blobs/", Fault::StallAt(100_000, gate.clone()));
    let client = client();
    let mut stream = open(&client, &registry, &digest, 0).await.unwrap();
    let mut body = Vec::new();
    while body.len() < 100_000 {
        body.extend_from_slice(&stream.next().await.unwrap().unwrap());
    }
    gate.arrived(1).await;
    let waiting = tokio::select! {
        biased;
        _ = stream.next() => false,
        () = std::future::ready(()) => true,
    };
    assert!(waiting, "nothing comes through a closed gate");
    gate.open();
    body.extend(read(stream).await.unwrap());
    assert_eq!(body, bytes());
}

#[tokio::test]
async fn a_small_blob_is_verified() {
    let (registry, digest) = start().await;
    let reference = parse(&registry.reference("data", "x"));
    let client = client();
    let get = |cap| {
        let (client, reference, descriptor) = (client.clone(), reference.clone(), descriptor(&digest, SIZE));
        async move { client.fetch_small(&reference, &descriptor, cap, &Credential::Anonymous).await }
    };
    assert_eq!(get(SIZE).await.unwrap(), Bytes::from(bytes()));
    assert!(matches!(get(SIZE - 1).await, Err(RegistryError::TooLarge { .. })));
    registry.faults().always("/blobs/", Fault::Corrupt(1234));
    assert!(matches!(get(SIZE).await, Err(RegistryError::DigestMismatch { .. })));
}

#[tokio::test]
async fn a_login_page_is_no_blob() {
    let (registry, digest) = start().await;
    registry.faults().always("/blobs/", Fault::web_page());
    let error = fetch(&registry, &digest, 0).await.unwrap_err();
    assert!(matches!(error, RegistryError::WebPage { .. }), "{error:?}");
}
