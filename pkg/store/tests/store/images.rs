//! Images: what their files hold, what leads to them, and what is refused.

use imagevol_api::oci::Algorithm;
use imagevol_base::Digester;
use imagevol_erofs::{Device, read_devices};
use imagevol_store::{Compression, ContentKey, ImageKind, Limits};
use rstest::rstest;

use crate::support::{
    Held as _, Piece, Scratch, command, content_files, digest_name, kind, manifest_of, names, pull, record, reference,
    repository, small_tar, tag, tar, volume,
};

#[test]
fn devices_are_the_content_that_has_bytes_once_each_in_order() {
    let scratch = Scratch::new();
    let (a, b) = (small_tar("a"), small_tar("b"));
    let pieces = [
        Piece::archive(&a, Compression::Gzip),
        Piece::blob(b""),
        Piece::blob(&[1; 5000]),
        Piece::archive(&b, Compression::None),
        Piece::archive(&a, Compression::Gzip),
    ];
    let image = pull(scratch.store(), "i", &pieces);
    let files = scratch.store().open_image(&image.manifest).unwrap();
    let expected = [(&a[..], a.len()), (&[1; 5000], 5000), (&b, b.len())].map(|(bytes, size)| {
        Device::new(&Digester::sha256(bytes).to_string(), size.next_multiple_of(4096) as u64).unwrap()
    });
    assert_eq!(read_devices(files.image).unwrap(), expected);
    assert_eq!(files.devices.len(), 3);
    for (file, device) in files.devices.iter().zip(&expected) {
        assert_eq!(file.metadata().unwrap().len(), device.size);
    }
    scratch.assert_sound();
}

#[rstest]
fn an_image_without_layers_is_an_empty_directory(#[values(ImageKind::Image, ImageKind::Artifact)] kind: ImageKind) {
    let scratch = Scratch::new();
    let (record, _leases) = record(scratch.store(), "empty", kind, &[]);
    let image = scratch.store().commit_held(record, &names("empty"), &command(1)).unwrap();
    assert!(scratch.store().open_image(&image.manifest).unwrap().devices.is_empty());
    scratch.assert_sound();
}

#[test]
fn the_same_layer_may_come_several_times_in_an_image() {
    let scratch = Scratch::new();
    let layer = Piece::layer(&small_tar("a"), Compression::Zstd);
    let (record, _leases) = record(scratch.store(), "twice", ImageKind::Image, &[layer.clone(), layer.clone(), layer]);
    let image = scratch.store().commit_held(record, &names("twice"), &command(1)).unwrap();
    assert_eq!(image.layers.len(), 3);
    assert_eq!(scratch.store().open_image(&image.manifest).unwrap().devices.len(), 1);
    scratch.assert_sound();
}

#[test]
fn hundreds_of_layers_are_devices() {
    let scratch = Scratch::new();
    let pieces: Vec<_> =
        (0..600).map(|number| Piece::layer(&small_tar(&format!("layer-{number}")), Compression::None)).collect();
    // Put once, named often: the fsync of each would take the test's time.
    let (mut record, _leases) = record(scratch.store(), "many", ImageKind::Image, &pieces[..20]);
    record.layers = record.layers.iter().cycle().take(600).cloned().collect();
    let image = scratch.store().commit_held(record, &names("many"), &command(1)).unwrap();
    assert_eq!(scratch.store().open_image(&image.manifest).unwrap().devices.len(), 20);
    scratch.assert_sound();
}

#[test]
fn size_is_what_its_files_take() {
    let scratch = Scratch::new();
    let image =
        pull(scratch.store(), "i", &[Piece::blob(&[1; 5000]), Piece::archive(&small_tar("a"), Compression::Gzip)]);
    assert_eq!((image.size, 5), scratch.store().usage().unwrap());
}

#[rstest]
#[case::blob_as_a_layer(ImageKind::Image, Piece::blob(b"x"), "NotALayer")]
#[case::title_that_leads_out(ImageKind::Artifact, Piece { title: Some("../x".into()), ..Piece::blob(b"x") }, "Layer")]
fn what_makes_no_image_is_refused(#[case] image: ImageKind, #[case] piece: Piece, #[case] expected: &str) {
    let scratch = Scratch::new();
    let (record, leases) = record(scratch.store(), "i", image, &[piece]);
    let error = scratch.store().commit_held(record, &names("i"), &command(1)).unwrap_err();
    assert_eq!(kind(&error), expected);
    assert!(error.is_content());
    assert_no_image(&scratch);
    drop(leases);
}

#[test]
fn content_must_be_there_and_as_long_as_the_record_says() {
    let scratch = Scratch::new();
    let (good, _leases) = record(scratch.store(), "i", ImageKind::Artifact, &[Piece::blob(b"x")]);
    let mut absent = good.clone();
    absent.layers[0].content = ContentKey::Blob(Digester::sha256(b"y"));
    let mut longer = good.clone();
    longer.layers[0].stored_size = 2;
    let archive = Piece::archive(&small_tar("layer"), Compression::None);
    let (mut other_config, _leases) = record(scratch.store(), "i", ImageKind::Image, &[archive]);
    other_config.config = Digester::sha256(b"y");
    for (record, expected) in [(absent, "MissingContent"), (longer, "SizeMismatch"), (other_config, "MissingContent")] {
        let error = scratch.store().commit_held(record, &names("i"), &command(1)).unwrap_err();
        assert_eq!(kind(&error), expected);
        assert_no_image(&scratch);
    }
}

#[test]
fn an_image_with_too_many_files_is_refused() {
    let scratch = Scratch::with_limits(Limits { max_entries: 3, ..Limits::default() });
    let layer = Piece::archive(&tar(&[("a", b"1"), ("b", b"2"), ("c", b"3")]), Compression::None);
    let (record, _leases) = record(scratch.store(), "i", ImageKind::Artifact, &[layer]);
    assert!(scratch.store().commit_held(record, &names("i"), &command(1)).unwrap_err().is_content());
    assert_no_image(&scratch);
}

#[test]
fn an_index_that_grows_too_large_is_refused() {
    let scratch = Scratch::with_limits(Limits { max_index_bytes: 2048, ..Limits::default() });
    let long = "n".repeat(200);
    let titles = (0..40).map(|number| Piece { title: Some(format!("{long}{number}")), ..Piece::blob(b"x") });
    let (record, _leases) = record(scratch.store(), "i", ImageKind::Artifact, &titles.collect::<Vec<_>>());
    let error = scratch.store().commit_held(record, &names("i"), &command(1)).unwrap_err();
    assert!(error.is_content() && kind(&error) == "Erofs", "{error:?}");
    assert_no_image(&scratch);
}

fn assert_no_image(scratch: &Scratch) {
    assert!(scratch.store().images().unwrap().is_empty());
    assert!(scratch.store().references().unwrap().is_empty());
    let files = content_files(scratch.dir.path());
    assert!(!files.iter().any(|path| path.starts_with(scratch.path("images"))), "{files:?}");
}

#[test]
fn an_image_that_is_here_keeps_its_record_and_gets_the_names() {
    let scratch = Scratch::new();
    let image = pull(scratch.store(), "i", &[Piece::blob(b"x")]);
    // No content is leased: the image itself keeps it.
    let again = scratch.store().commit_held(image.clone(), &[reference("r.example:5000/j:2")], &volume("v")).unwrap();
    assert_eq!((again.index_digest, again.size), (image.index_digest, image.size));
    assert_eq!(scratch.store().names_of(&image.manifest).unwrap().len(), 3);
    assert_eq!(scratch.store().references().unwrap()[0].1.image, Some(image.manifest));
    scratch.assert_sound();
}

#[test]
fn a_tag_that_moves_leaves_the_old_image_its_digest() {
    let scratch = Scratch::new();
    let old = pull(scratch.store(), "old", &[Piece::blob(b"old")]);
    let new = pull(scratch.store(), "new", &[Piece::blob(b"new")]);
    scratch.store().commit_held(new.clone(), &[reference(&tag("old"))], &command(1)).unwrap();
    let resolve = |name: &str| scratch.store().resolve(name).unwrap().map(|image| image.manifest);
    assert_eq!(resolve(&tag("old")), Some(new.manifest.clone()));
    assert_eq!(resolve(&digest_name("old")), Some(old.manifest.clone()));
    assert_eq!(scratch.store().names_of(&old.manifest).unwrap(), [digest_name("old")]);
    assert_eq!(scratch.store().names_of(&new.manifest).unwrap(), [tag("new"), digest_name("new"), tag("old")]);
    let all = scratch.store().images_with_names().unwrap();
    for (image, names) in all {
        assert_eq!(names, scratch.store().names_of(&image.manifest).unwrap());
    }
    scratch.assert_sound();
}

#[rstest]
#[case::tag(tag("i"))]
#[case::digest(digest_name("i"))]
#[case::tag_and_digest(format!("{}:other@{}", repository("i"), manifest_of("i")))]
#[case::image(manifest_of("i").to_string())]
fn an_image_is_found_by_what_leads_to_it(#[case] name: String) {
    let scratch = Scratch::new();
    pull(scratch.store(), "i", &[]);
    assert_eq!(scratch.store().resolve(&name).unwrap().unwrap().manifest, manifest_of("i"));
}

#[rstest]
#[case::other_tag(format!("{}:2", repository("i")))]
#[case::no_tag(repository("i"))]
#[case::other_digest(format!("{}@{}", repository("i"), manifest_of("j")))]
#[case::hex(manifest_of("i").hex().to_owned())]
#[case::other_algorithm(format!("{}:{}", Algorithm::Sha512.as_str(), "0".repeat(128)))]
#[case::nonsense("../..".to_owned())]
#[case::nothing(String::new())]
fn what_leads_nowhere_is_none(#[case] name: String) {
    let scratch = Scratch::new();
    pull(scratch.store(), "i", &[]);
    assert!(scratch.store().resolve(&name).unwrap().is_none());
    assert_eq!(kind(&scratch.store().remove(&name).unwrap_err()), "NoImage");
}

#[test]
fn a_short_name_is_normalized() {
    let scratch = Scratch::new();
    let (record, _leases) = record(scratch.store(), "i", ImageKind::Artifact, &[]);
    let name = reference("busybox").with_default_tag();
    scratch.store().commit_held(record, &[name], &command(1)).unwrap();
    assert!(scratch.store().resolve("busybox").unwrap().is_some());
    scratch.store().release(&command(1)).unwrap();
    assert_eq!(scratch.store().remove("busybox").unwrap().names, ["docker.io/library/busybox:latest"]);
}
