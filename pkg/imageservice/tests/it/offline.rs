//! Images that come from archives and additional stores, and go to archives.

use std::io::Cursor;

use imagevol_cri::{ImageService as _, ImageServiceError, ImageSpec, Progress};
use imagevol_imageservice::{AdditionalImageStore, Import, Imported};
use imagevol_store::Limits;
use imagevol_test_support::image::{Blob, Image, ImageBuilder, LayerBuilder};
use imagevol_test_support::registry::FakeRegistry;

use crate::support::{Node, volume};

fn image() -> Image {
    ImageBuilder::new().layer(LayerBuilder::new().file("file", vec![7; 100_000]).gzip()).build()
}

async fn exported(node: &Node, references: &[String]) -> std::io::Result<Vec<u8>> {
    let export = node.service.export(references).await.unwrap();
    tokio::task::spawn_blocking(move || {
        let mut bytes = Vec::new();
        export.write(&mut bytes).map(|()| bytes)
    })
    .await
    .unwrap()
}

async fn import(node: &Node, bytes: Vec<u8>, import: &Import) -> Result<Vec<Imported>, ImageServiceError> {
    let kept = node.service.keep_archive(Cursor::new(bytes)).await?;
    let mut all = Vec::new();
    let (holder, progress) = (volume("import"), Progress::default());
    node.service.import(&kept, import, (&holder, &progress), |imported| all.push(imported)).await?;
    Ok(all)
}

#[tokio::test]
async fn an_artifact_with_a_config_of_its_own_is_another_one_in_an_export() {
    let (node, there, registry) = (Node::new(), Node::new(), FakeRegistry::start().await);
    let config = Blob::new("application/vnd.test.config", "not kept");
    let artifact =
        ImageBuilder::artifact("application/vnd.test").config(config).file("file", "text/plain", "1").build();
    let reference = registry.push("team/data", "v1", &artifact);
    node.pull(&reference, &volume("a")).await.unwrap();
    let bytes = exported(&node, std::slice::from_ref(&reference)).await.unwrap();
    let imported = import(&there, bytes, &Import::default()).await.unwrap();
    let image = &imported[0].image;
    assert_ne!(image.manifest, artifact.digest);
    assert_eq!(image.artifact_type.as_deref(), Some("application/vnd.test"));
    assert_eq!(image.layers[0].digest, artifact.layers[0].digest);
    assert_eq!(imported[0].names, [reference]);
    assert_eq!(there.ingest(), Vec::<String>::new());
    there.assert_sound();
}

#[tokio::test]
async fn an_export_of_damaged_content_breaks_off() {
    let (node, registry, image) = (Node::new(), FakeRegistry::start().await, image());
    let reference = registry.push("team/data", "v1", &image);
    node.pull(&reference, &volume("a")).await.unwrap();
    let layer = node.dir.path().join("state/layers/sha256").join(format!("{}.tar", image.diff_ids[0].hex()));
    let mut bytes = std::fs::read(&layer).unwrap();
    bytes[1000] ^= 1;
    std::fs::write(&layer, bytes).unwrap();
    let error = exported(&node, &[reference]).await.unwrap_err();
    assert!(error.to_string().contains("does not match its digest"), "{error}");
}

#[tokio::test]
async fn one_name_is_for_one_image() {
    let (node, registry) = (Node::new(), FakeRegistry::start().await);
    let other = ImageBuilder::new().layer(LayerBuilder::new().file("other", "2").gzip()).build();
    let references = [registry.push("team/a", "v1", &image()), registry.push("team/b", "v1", &other)];
    for reference in &references {
        node.pull(reference, &volume("a")).await.unwrap();
    }
    let bytes = exported(&node, &references).await.unwrap();
    let name = Some(imagevol_api::oci::Reference::parse("r.io/a:1").unwrap());
    let refused = import(&node, bytes.clone(), &Import { name, ..Import::default() }).await.unwrap_err();
    assert_eq!(refused.to_string(), "the archive has 2 images, which cannot all have one name");
    let imported = import(&node, bytes, &Import::default()).await.unwrap();
    assert_eq!(imported.iter().flat_map(|image| image.names.clone()).collect::<Vec<_>>(), references);
}

#[tokio::test]
async fn an_archive_leaves_free_what_pulls_leave() {
    let node = Node::with_limits(Limits { min_free_bytes: u64::MAX / 2, ..Limits::default() });
    let archive = LayerBuilder::new().file("index.json", "{}").plain().blob.bytes.to_vec();
    let refused = import(&node, archive, &Import::default()).await.unwrap_err();
    assert!(matches!(refused, ImageServiceError::NoRoom { .. }), "{refused:?}");
    assert_eq!(node.ingest(), Vec::<String>::new());
}

#[tokio::test]
async fn all_who_want_an_image_of_an_additional_store_get_it() {
    let (node, dir, image) = (Node::new(), tempfile::tempdir().unwrap(), image());
    image.write_layout(dir.path(), "r.io/team/data:v1");
    let store = AdditionalImageStore { path: dir.path().to_owned(), repository: None };
    let service = node.service.clone().with_additional_stores(vec![store]);
    let spec = |name: &str| ImageSpec { image: name.to_owned(), ..ImageSpec::default() };
    let wanted = spec("r.io/team/data:v1");
    let (first, second) = tokio::join!(service.status(&wanted), service.status(&wanted));
    for found in [first, second] {
        assert_eq!(*found.unwrap().unwrap().id.digest(), image.digest);
    }
    for absent in ["r.io/team/data:v2", "r.io/other/data:v1", &format!("sha256:{}", "a".repeat(64))] {
        assert_eq!(service.status(&spec(absent)).await.unwrap(), None, "{absent}");
    }
    node.assert_sound();
}
