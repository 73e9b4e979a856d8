//! Images that mean harm. Each is refused with a reason, or mounted with all of it inside the image.

use std::path::Path;

use serde_json::json;
use tar::EntryType;

use imagevol_test_support::image::{Blob, Compression, Entry, Image, ImageBuilder, Layer, LayerBuilder, OCI_CONFIG};

/// What must become of it.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// The pull fails, and says this.
    Refused(&'static str),
    /// It is mounted, and these paths are there and the next ones not.
    Confined(Vec<String>, Vec<String>),
}

/// A named image with its outcome.
#[derive(Debug, Clone)]
pub struct Case {
    /// What it tries; the tag it is pushed under.
    pub name: &'static str,
    /// The image.
    pub image: Image,
    /// What must become of it.
    pub outcome: Outcome,
}

/// Bytes of one layer that the node of these cases accepts.
pub const MAX_LAYER_BYTES: usize = 16 << 20;

/// All cases; `canary` is a directory outside every image, which has a file `file`.
pub fn cases(canary: &Path) -> Vec<Case> {
    let outside = canary.to_str().expect("a path of letters");
    let mut cases = symlinks(outside);
    cases.extend(hard_links(outside));
    cases.extend(names());
    cases.extend(whiteouts(outside));
    cases.extend(headers());
    cases.extend(streams());
    cases.extend(manifests());
    cases.extend(artifacts(outside));
    cases
}

fn symlinks(outside: &str) -> Vec<Case> {
    // Where the canary would be in the image, should the image make one of its own.
    let inside = outside.trim_start_matches('/');
    let up = format!("../../../../../../../..{outside}");
    let link = |target: &str| LayerBuilder::new().symlink("d", target);
    let written = format!("{inside}/x");
    vec![
        confined("write-through-absolute-symlink", [link(outside).file("d/x", "1")], &[&written, "d"], &[]),
        confined("write-through-climbing-symlink", [link(&up).file("d/x", "1")], &[&written], &[]),
        confined(
            "write-through-lower-symlink",
            [link(outside), LayerBuilder::new().file("d/x", "1")],
            &[&written],
            &[],
        ),
        confined(
            "write-through-chain",
            [LayerBuilder::new().symlink("a", "b").symlink("b", "c").symlink("c", "..").file("a/etc/x", "1")],
            &["etc/x"],
            &[],
        ),
        confined(
            "directory-over-symlink",
            [link(outside).dir_with("d", Entry::mode(0o777)).file("d/x", "1")],
            &["d/x"],
            &[inside],
        ),
        refused(
            "symlink-loop",
            LayerBuilder::new().symlink("a", "b").symlink("b", "a").file("a/x", "1"),
            "symbolic links",
        ),
        refused("root-is-symlink", raw_symlink(".", outside), "root"),
    ]
}

fn hard_links(outside: &str) -> Vec<Case> {
    let secret = format!("{outside}/file");
    let up = format!("../../../../../../..{secret}");
    vec![
        refused("hard-link-to-absolute", LayerBuilder::new().hardlink("h", &secret), "hard link to"),
        refused("hard-link-climbing", LayerBuilder::new().hardlink("h", &up), "parent directory"),
        refused("hard-link-to-itself", LayerBuilder::new().file("h", "1").hardlink("h", "h"), "hard link to"),
        refused("hard-link-to-directory", LayerBuilder::new().dir("d").hardlink("h", "d"), "directory"),
        refused("hard-link-to-later", LayerBuilder::new().hardlink("h", "f").file("f", "1"), "hard link to"),
        confined(
            "hard-link-to-symlink",
            [LayerBuilder::new().symlink("s", &secret).hardlink("h", "s")],
            &["h", "s"],
            &[outside.trim_start_matches('/')],
        ),
    ]
}

fn names() -> Vec<Case> {
    let raw = |name: &[u8]| LayerBuilder::new().raw_name(name, EntryType::Regular, b"1");
    let long = "n".repeat(256);
    vec![
        confined("absolute-name", [raw(b"//etc/x")], &["etc/x"], &[]),
        refused("parent-name", raw(b"../x"), "parent directory"),
        refused("climbing-name", raw(b"a/../../x"), "parent directory"),
        refused("final-parent-name", raw(b"a/.."), "parent directory"),
        refused("too-long-name", LayerBuilder::new().file(&long, "1"), "255 bytes"),
        confined("names-of-our-own", [LayerBuilder::new().file(".ready", "1").file("db.redb", "1")], &["db.redb"], &[]),
    ]
}

fn whiteouts(outside: &str) -> Vec<Case> {
    let raw = |name: &[u8]| LayerBuilder::new().file("kept", "1").raw_name(name, EntryType::Regular, b"");
    let lower = LayerBuilder::new().symlink("d", outside).file("kept", "1");
    let through = LayerBuilder::new().raw_name(b"d/.wh.file", EntryType::Regular, b"");
    vec![
        refused("whiteout-of-nothing", raw(b"d/.wh."), "whiteout"),
        refused("whiteout-of-itself", raw(b"d/.wh.."), "whiteout"),
        refused("whiteout-of-parent", raw(b"d/.wh..."), "whiteout"),
        confined("whiteout-through-symlink", [lower, through], &["d", "kept"], &[]),
        confined("aufs-metadata", [raw(b".wh..wh.plnk"), raw(b".wh..wh.orph/x")], &["kept"], &[".wh..wh.plnk"]),
    ]
}

fn headers() -> Vec<Case> {
    let pax = |key: &str, value: &[u8]| LayerBuilder::new().pax(&[(key, value)]).file("f", "1");
    let big = vec![b'v'; 2 << 20];
    let mut bad_sum = LayerBuilder::new().file("f", "1").tar();
    bad_sum.iter_mut().take(1).for_each(|byte| *byte ^= 1);
    let mut cut_off = LayerBuilder::new().file("f", vec![b'x'; 4096]).tar();
    cut_off.truncate(2000);
    vec![
        refused(
            "owner-beyond-32-bits",
            LayerBuilder::new().file_with("f", "", Entry::mode(0o644).owner(1 << 32, 0)),
            "f",
        ),
        refused("negative-pax-size", pax("size", b"-1"), "size"),
        confined("archive-in-a-file-of-pax-size", [nested_archive()], &["outer"], &["evil"]),
        refused("huge-pax-record", pax("comment", &big), "exceeds"),
        refused("device-beyond-kernel", LayerBuilder::new().node("f", EntryType::Char, 70_000, 0), "device number"),
        refused_layer("wrong-header-checksum", Layer::from_tar(bad_sum, Compression::Gzip), "checksum"),
        refused_layer("cut-off-tar", Layer::from_tar(cut_off, Compression::Gzip), "cut off"),
        refused_layer("empty-archive", Layer::from_tar(Vec::new(), Compression::Gzip), "empty"),
    ]
}

fn streams() -> Vec<Case> {
    let good = || LayerBuilder::new().file("f", vec![b'x'; 100_000]).gzip();
    let broken = |change: fn(&mut Vec<u8>)| {
        let mut layer = good();
        let mut bytes = layer.blob.bytes.to_vec();
        change(&mut bytes);
        layer.blob = Blob::new(layer.blob.media_type, bytes);
        layer
    };
    // RFC 1952, 2.3.1: the member ends in a CRC32 and a length, four bytes each.
    let wrong_crc = broken(|bytes| bytes.iter_mut().rev().skip(7).take(1).for_each(|byte| *byte ^= 1));
    let wrong_length = broken(|bytes| bytes.iter_mut().rev().take(1).for_each(|byte| *byte ^= 1));
    let cut_off = broken(|bytes| bytes.truncate(bytes.len() / 2));
    let bomb = LayerBuilder::new().file("bomb", vec![0; MAX_LAYER_BYTES + 1]);
    let mut other_content = good();
    other_content.diff_id = LayerBuilder::new().file("g", "2").gzip().diff_id;
    let mut other_bytes = good();
    other_bytes.blob.digest = LayerBuilder::new().file("g", "2").gzip().blob.digest;
    vec![
        refused_layer("other-bytes-than-the-digest-says", other_bytes, "digest"),
        refused_layer("gzip-wrong-crc", wrong_crc, "cannot be decompressed"),
        refused_layer("gzip-wrong-length", wrong_length, "cannot be decompressed"),
        refused_layer("gzip-cut-off", cut_off, "cannot be decompressed"),
        refused("gzip-bomb", bomb, "larger than 16.0 MiB"),
        refused_layer(
            "zstd-bomb",
            LayerBuilder::new().file("bomb", vec![0; MAX_LAYER_BYTES + 1]).zstd(),
            "larger than 16.0 MiB",
        ),
        refused_layer("other-content-than-the-config-says", other_content, "diff"),
    ]
}

fn manifests() -> Vec<Case> {
    let layer = || LayerBuilder::new().file("f", "1").gzip();
    let image = || ImageBuilder::new().layer(layer());
    let descriptor = |digest: &str, size: i64| {
        let media_type = Compression::Gzip.media_type();
        json!([{ "mediaType": media_type, "digest": digest, "size": size }])
    };
    let digest = layer().blob.digest.to_string();
    let size = i64::try_from(layer().blob.bytes.len()).expect("small");
    let with_layers = |layers| image().field("layers", layers).build();
    let no_diff_ids = json!({ "architecture": "amd64", "os": "linux", "rootfs": { "type": "layers", "diff_ids": [] } });
    let no_diff_ids = Blob::new(OCI_CONFIG, serde_json::to_vec(&no_diff_ids).expect("JSON"));
    vec![
        refused_image(
            "digest-is-a-path",
            with_layers(descriptor("sha256:../../../../etc/passwd", 10)),
            "lower-case hex digits",
        ),
        refused_image(
            "digest-of-unknown-kind",
            with_layers(descriptor("md5:d41d8cd98f00b204e9800998ecf8427e", 10)),
            "digest algorithm",
        ),
        refused_image(
            "digest-in-upper-case",
            with_layers(descriptor(&digest.to_uppercase(), size)),
            "digest algorithm",
        ),
        refused_image("size-too-small", with_layers(descriptor(&digest, size - 1)), "is longer than"),
        refused_image("size-too-large", with_layers(descriptor(&digest, size + 1)), "ended after"),
        refused_image("size-negative", with_layers(descriptor(&digest, -1)), "not a valid document"),
        refused_image("fewer-diff-ids-than-layers", image().config(no_diff_ids).build(), "names 0 layers"),
        refused_image(
            "two-kinds-of-manifest",
            image().field("manifests", json!([])).build(),
            "an image manifest has no manifests",
        ),
        refused_image(
            "manifest-lies-about-its-type",
            image().field("mediaType", json!("text/html")).build(),
            "text/html",
        ),
    ]
}

fn artifacts(outside: &str) -> Vec<Case> {
    let titled = |title: &str| ImageBuilder::artifact("application/vnd.test").file(title, "text/plain", "1").build();
    let archive = LayerBuilder::new().symlink("d", outside).file("d/x", "1").gzip().blob;
    let archive =
        archive.annotate("io.deis.oras.content.unpack", "true").annotate("org.opencontainers.image.title", "d");
    let inside = format!("{}/x", outside.trim_start_matches('/'));
    let unpacked = ImageBuilder::artifact("application/vnd.test").blob(archive).build();
    let conflict = ImageBuilder::artifact("application/vnd.test").file("a", "t/p", "1").file("a/b", "t/p", "2").build();
    vec![
        refused_image("title-climbs", titled("../../etc/passwd"), "parent directory"),
        refused_image("title-climbs-later", titled("a/../../b"), "parent directory"),
        refused_image("title-is-absolute", titled("/etc/passwd"), "absolute"),
        refused_image("title-with-nul", titled("a\0b"), "NUL"),
        refused_image("title-with-escape", titled("a\u{1b}[31m"), "control character"),
        refused_image("title-is-a-dot", titled("."), "root"),
        refused_image("title-below-a-file", conflict, "a/b"),
        Case {
            name: "packed-directory-with-symlink",
            image: unpacked,
            outcome: Outcome::Confined(vec![inside], vec![]),
        },
    ]
}

/// A file that is an archive itself. Its header says that it is empty, its PAX record how long it is: for a reader that
/// believes the header, the inner entries are the outer ones.
fn nested_archive() -> LayerBuilder {
    let inner = LayerBuilder::new().file("evil", "1").tar();
    let mut header = tar::Header::new_ustar();
    header.set_path("outer").expect("a short name");
    header.set_mode(0o644);
    header.set_size(0);
    header.set_cksum();
    LayerBuilder::new().pax(&[("size", inner.len().to_string().as_bytes())]).raw(&header, &inner)
}

/// A symlink whose own name only a raw header can hold.
fn raw_symlink(name: &str, target: &str) -> LayerBuilder {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(EntryType::Symlink);
    header.set_size(0);
    header.as_old_mut().name.iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from);
    header.set_link_name_literal(target).expect("a short target");
    header.set_cksum();
    LayerBuilder::new().raw(&header, b"")
}

fn confined<const N: usize>(name: &'static str, layers: [LayerBuilder; N], there: &[&str], not_there: &[&str]) -> Case {
    let owned = |paths: &[&str]| paths.iter().map(|path| (*path).to_owned()).collect();
    let image = layers.into_iter().fold(ImageBuilder::new(), |image, layer| image.layer(layer.gzip())).build();
    Case { name, image, outcome: Outcome::Confined(owned(there), owned(not_there)) }
}

fn refused(name: &'static str, layer: LayerBuilder, why: &'static str) -> Case {
    refused_layer(name, layer.gzip(), why)
}

fn refused_layer(name: &'static str, layer: Layer, why: &'static str) -> Case {
    refused_image(name, ImageBuilder::new().layer(layer).build(), why)
}

fn refused_image(name: &'static str, image: Image, why: &'static str) -> Case {
    Case { name, image, outcome: Outcome::Refused(why) }
}
