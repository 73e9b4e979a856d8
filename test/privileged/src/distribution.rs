//! An image of the shape of a distribution: more than 20 000 entries in seven layers, where the upper ones remove, replace,
//! hide, link and move what the lower ones have. The same from run to run.

use imagevol_test_support::image::{Compression, Entry, Image, ImageBuilder, LayerBuilder};

/// Files of one package.
const FILES: u32 = 34;

/// When the oldest file was made: 2020-01-01.
const EPOCH: u64 = 1_577_836_800;

/// Packages whose opaque marker comes after their new content.
const HIDDEN_LATE: std::ops::Range<u32> = 60..70;

/// Directories whose entries no layer has, so that unpackers make them up: their times are the unpacker's.
pub const IMPLIED: [&str; 4] = ["opt", "opt/vendor", "opt/vendor/tool", "opt/vendor/tool/lib"];

/// Directories that layers do describe, whose times umoci loses nonetheless: the root, since it does not put the time back
/// when it makes up `opt`, and those that an opaque marker empties after they were described.
pub fn times_lost_by_umoci() -> impl Iterator<Item = String> {
    HIDDEN_LATE.map(|package| format!("{}/sub", directory(package))).chain(std::iter::once(String::new()))
}

/// One layer under construction, with a source of numbers that the seed decides.
struct Draft {
    tar: LayerBuilder,
    state: u64,
}

/// The image, its layers compressed as `compressions` say, one after the other and round again.
pub fn image(compressions: &[Compression]) -> Image {
    let layers = [base(), more(), removals(), opaque(), links(), type_changes(), attributes()];
    let compressed = layers.into_iter().zip(compressions.iter().cycle());
    compressed.fold(ImageBuilder::new(), |image, (layer, how)| image.layer(layer.tar.build(*how))).build()
}

/// The root, the usual directories, `bin -> usr/bin`, and 250 packages.
fn base() -> Draft {
    let mut draft = Draft::new(1).dir("./", 0o755);
    for (path, mode) in [
        ("etc", 0o755),
        ("root", 0o700),
        ("tmp", 0o1777),
        ("usr", 0o755),
        ("usr/bin", 0o755),
        ("usr/lib", 0o755),
        ("usr/share", 0o755),
        ("var", 0o755),
        ("var/lib", 0o755),
        ("var/mail", 0o2775),
    ] {
        draft = draft.dir(path, mode);
    }
    draft.tar = draft.tar.symlink("bin", "usr/bin").symlink("lib", "usr/lib").symlink("var/run", "/run");
    (0..250).fold(draft, Draft::package)
}

/// 320 packages more, without a word on the directories that they go into.
fn more() -> Draft {
    (250..570).fold(Draft::new(2), Draft::package)
}

/// Whole packages and single files go; some come back in the same layer, before or after they are hidden.
fn removals() -> Draft {
    let mut draft = Draft::new(3);
    for package in 0..10 {
        draft.tar = draft.tar.whiteout(&directory(package));
    }
    for package in 10..30 {
        draft.tar = draft.tar.whiteout(&format!("{}/file-3", directory(package)));
        draft.tar = draft.tar.whiteout(&format!("{}/never-was", directory(package)));
    }
    for package in 30..34 {
        draft.tar = draft.tar.whiteout(&directory(package));
        draft = draft.package(package);
    }
    for package in 34..38 {
        draft = draft.file(&format!("{}/file-5", directory(package)));
        draft.tar = draft.tar.whiteout(&format!("{}/file-6", directory(package)));
    }
    draft
}

/// Directories whose old content is hidden, with the marker before and after the new content.
fn opaque() -> Draft {
    let mut draft = Draft::new(4);
    for package in 40..60 {
        let path = directory(package);
        draft = draft.dir(&path, 0o711);
        draft.tar = draft.tar.opaque(&path);
        draft = draft.file(&format!("{path}/only"));
    }
    for package in HIDDEN_LATE {
        let path = directory(package);
        draft = draft.dir(&path, 0o711).file(&format!("{path}/first"));
        draft = draft.dir(&format!("{path}/sub"), 0o700).file(&format!("{path}/sub/second"));
        draft.tar = draft.tar.opaque(&path);
    }
    draft
}

/// Hard links to what lower layers have; of older groups one name is removed.
fn links() -> Draft {
    let mut draft = Draft::new(5).dir("usr/share/links", 0o755);
    for package in 70..170 {
        let target = format!("{}/file-0", directory(package));
        draft.tar = draft.tar.hardlink(&format!("usr/share/links/{package}"), &target);
    }
    for package in 170..190 {
        draft.tar = draft.tar.whiteout(&format!("{}/file-0", directory(package)));
    }
    draft
}

/// Files become directories, directories symlinks, symlinks files; and files are written through `bin`.
fn type_changes() -> Draft {
    let mut draft = Draft::new(6);
    for package in 200..210 {
        let path = directory(package);
        draft.tar = draft.tar.whiteout(&format!("{path}/file-7"));
        draft = draft.dir(&format!("{path}/file-7"), 0o750).file(&format!("{path}/file-7/inside"));
        draft = draft.file(&format!("{path}/link"));
    }
    for package in 210..220 {
        draft.tar = draft.tar.whiteout(&format!("{}/sub", directory(package)));
        draft.tar = draft.tar.symlink(&format!("{}/sub", directory(package)), "../elsewhere");
    }
    (0..50).fold(draft, |draft, tool| draft.file(&format!("bin/tool-{tool}")))
}

/// Directories get other attributes, and keep what is in them; files go into directories that nobody described.
fn attributes() -> Draft {
    let mut draft = Draft::new(7).dir("root", 0o711).dir("tmp", 0o777);
    for package in 230..240 {
        draft = draft.dir(&directory(package), 0o500);
    }
    (0..40).fold(draft, |draft, file| draft.file(&format!("opt/vendor/tool/lib/file-{file}")))
}

fn directory(package: u32) -> String {
    format!("usr/share/package-{package}")
}

// === impl Draft ===

impl Draft {
    fn new(seed: u64) -> Self {
        Self { tar: LayerBuilder::new(), state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) }
    }

    /// Two directories, some files, two more names of the first one, and two symlinks.
    fn package(self, package: u32) -> Self {
        let path = directory(package);
        let mut draft = self.dir(&path, 0o755).dir(&format!("{path}/sub"), 0o755);
        for file in 0..FILES {
            let above = if file % 4 == 3 { "/sub" } else { "" };
            draft = draft.file(&format!("{path}{above}/file-{file}"));
        }
        let first = format!("{path}/file-0");
        draft.tar = draft.tar.hardlink(&format!("{path}/same"), &first);
        draft.tar = draft.tar.hardlink(&format!("{path}/sub/same"), &first);
        draft.tar = draft.tar.symlink(&format!("{path}/link"), "file-0");
        draft.tar = draft.tar.symlink(&format!("{path}/sub/dead"), "/no/where");
        draft
    }

    fn file(mut self, path: &str) -> Self {
        const MODES: [u32; 6] = [0o644, 0o644, 0o600, 0o755, 0o4755, 0o2755];
        let content = self.content();
        let mode = pick(&MODES, self.next());
        let entry = self.entry(mode);
        if self.next().is_multiple_of(16) {
            let record = format!("{}.{:09}", entry.mtime, self.next() % 1_000_000_000);
            self.tar = self.tar.pax(&[("mtime", record.as_bytes()), ("SCHILY.xattr.user.made-by", path.as_bytes())]);
        }
        self.tar = self.tar.file_with(path, content, entry);
        self
    }

    fn dir(mut self, path: &str, mode: u32) -> Self {
        let entry = self.entry(mode);
        self.tar = self.tar.dir_with(path, entry);
        self
    }

    fn entry(&mut self, mode: u32) -> Entry {
        const OWNERS: [u64; 4] = [0, 0, 1000, 65534];
        let (uid, gid) = (pick(&OWNERS, self.next()), pick(&OWNERS, self.next()));
        Entry::mode(mode).owner(uid, gid).mtime(EPOCH + self.next() % 100_000_000)
    }

    /// Nothing, less than a block, or a few blocks.
    fn content(&mut self) -> Vec<u8> {
        let words = match self.next() % 8 {
            0 => 0,
            1..7 => self.next() % 60,
            _ => self.next() % 1500,
        };
        let mut bytes: Vec<u8> = (0..words).flat_map(|_| self.next().to_le_bytes()).collect();
        bytes.extend(std::iter::repeat_n(b'x', usize::try_from(words % 8).unwrap_or_default()));
        bytes
    }

    /// SplitMix64.
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

fn pick<T: Copy + Default>(values: &[T], number: u64) -> T {
    let index = number % (values.len() as u64).max(1);
    usize::try_from(index).ok().and_then(|index| values.get(index)).copied().unwrap_or_default()
}
