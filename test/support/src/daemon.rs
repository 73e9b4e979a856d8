//! The real daemon and the real command line, in directories and a mount namespace of a test's own.
//! A harness: whatever fails here panics, and so fails the test that uses it.
#![expect(clippy::missing_panics_doc, reason = "every function of the harness may panic, as the head says")]

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use tempfile::TempDir;

/// Where test directories are made: a disk, since EROFS cannot be mounted from a file on tmpfs, which `/tmp` may be.
pub(crate) const ON_DISK: &str = "/var/tmp";

/// A daemon that can be started, killed and started again over the same state.
///
/// Everything lies in one directory, which goes with the value; so do the process and the mounts.
#[derive(Debug)]
pub struct Daemon {
    dir: TempDir,
    flags: Vec<String>,
    config: String,
    child: Option<Child>,
}

/// What a command printed, as text.
#[derive(Debug)]
pub struct Ran {
    /// Whether it exited with 0.
    pub ok: bool,
    /// The exit code, where no signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// Moves the calling thread, and the processes that it starts from now on, into a mount namespace of its own.
///
/// `false`, said aloud, if this process may not; with `CI=true` that is a failure.
pub fn own_mounts(test: &str) -> bool {
    let made = unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_FS)
        .and_then(|()| mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>));
    if let Err(error) = made {
        skip(test, &format!("needs root to make a mount namespace: {error}"));
        return false;
    }
    true
}

/// Whether the programs are installed; if not, the test is skipped aloud, and with `CI=true` that is a failure.
pub fn have(test: &str, programs: &[&str]) -> bool {
    let dirs: Vec<PathBuf> = std::env::var_os("PATH").iter().flat_map(std::env::split_paths).collect();
    let missing = programs.iter().find(|program| !dirs.iter().any(|dir| dir.join(program).is_file()));
    if let Some(missing) = missing {
        skip(test, &format!("needs the program {missing}"));
    }
    missing.is_none()
}

/// Says aloud that a test was skipped; fails it where everything must be there.
#[expect(clippy::print_stderr, reason = "a skipped test must be seen")]
pub fn skip(test: &str, why: &str) {
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{test} must not be skipped in CI: {why}");
    eprintln!("SKIPPED: {test}: {why}");
}

// === impl Daemon ===

#[expect(clippy::expect_used, clippy::panic, reason = "a harness: whatever fails here fails the test that uses it")]
impl Daemon {
    /// Directories, and no process yet.
    pub fn new() -> Self {
        let dir = TempDir::with_prefix_in("imagevol-test-", ON_DISK).expect("a directory on disk");
        Self { dir, flags: Vec::new(), config: String::new(), child: None }
    }

    /// Adds flags of `imagevold`.
    #[must_use]
    pub fn flags<S: Into<String>>(mut self, flags: impl IntoIterator<Item = S>) -> Self {
        self.flags.extend(flags.into_iter().map(Into::into));
        self
    }

    /// Adds lines (YAML) to the configuration file.
    #[must_use]
    pub fn config(mut self, lines: &str) -> Self {
        self.config.push_str(lines);
        self.config.push('\n');
        self
    }

    /// The directory of everything.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The kubelet-shaped root.
    pub fn root_dir(&self) -> PathBuf {
        self.dir().join("kubelet")
    }

    /// The manifest directory.
    pub fn manifest_dir(&self) -> PathBuf {
        self.dir().join("manifests")
    }

    /// The store.
    pub fn state_dir(&self) -> PathBuf {
        self.dir().join("state")
    }

    /// Where images are staged.
    pub fn staging_dir(&self) -> PathBuf {
        self.dir().join("run/staging")
    }

    /// Standard error of all runs of the daemon.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir().join("log")).unwrap_or_default()
    }

    /// Starts the daemon and waits until it answers.
    pub fn start(&mut self) {
        self.spawn();
        while !self.ctl(["status"]).ok {
            let child = self.child.as_mut().expect("started");
            if let Some(status) = child.try_wait().expect("wait for the daemon") {
                panic!("the daemon ended with {status}:\n{}", self.log());
            }
        }
    }

    /// Starts the daemon and does not wait.
    pub fn spawn(&mut self) {
        let config = self.dir().join("config.yaml");
        let head = "apiVersion: imagevol.dev/v1alpha1\nkind: ImagevolConfiguration\n";
        std::fs::write(&config, format!("{head}{}{}", self.config, self.collection()))
            .expect("write the configuration");
        let log =
            std::fs::File::options().create(true).append(true).open(self.dir().join("log")).expect("open the log");
        let mut command = Command::new(program("imagevold"));
        command.arg("--config").arg(&config).args(self.dir_flags()).args(["--metrics-address", "127.0.0.1:0"]);
        command.args(&self.flags).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().expect("start imagevold"));
    }

    /// How full the disk of whoever runs the tests is decides nothing, unless the test says so.
    fn collection(&self) -> &'static str {
        if self.config.contains("imageGCHighThresholdPercent") { "" } else { "imageGCHighThresholdPercent: 100\n" }
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("a running daemon").id()
    }

    /// `kill -9`, and waits for the end.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("kill the daemon");
            child.wait().expect("wait for the daemon");
        }
    }

    /// SIGTERM, and waits for the end; whether it exited with 0.
    pub fn terminate(&mut self) -> bool {
        let Some(mut child) = self.child.take() else { return true };
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("signal the daemon");
        child.wait().expect("wait for the daemon").success()
    }

    /// Runs the command line.
    pub fn ctl<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Ran {
        Ran::of(&self.ctl_command().args(arguments).stdin(Stdio::null()).output().expect("run imagevol"))
    }

    /// Runs the command line with something on its standard input.
    pub fn ctl_with<S: AsRef<OsStr>>(&self, input: &str, arguments: impl IntoIterator<Item = S>) -> Ran {
        let file = self.dir().join("stdin");
        std::fs::write(&file, input).expect("write what is to be read");
        let input = std::fs::File::open(&file).expect("open what is to be read");
        Ran::of(&self.ctl_command().args(arguments).stdin(input).output().expect("run imagevol"))
    }

    /// The command line, pointed at this daemon.
    pub fn ctl_command(&self) -> Command {
        let mut command = Command::new(program("imagevol"));
        command.arg("--socket").arg(self.dir().join("run/imagevold.sock"));
        command
    }

    /// Runs the command line, which must succeed; its standard output.
    pub fn must<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> String {
        let ran = self.ctl(arguments);
        assert!(ran.ok, "imagevol failed: {}\n{}\nlog:\n{}", ran.stderr, ran.stdout, self.log());
        ran.stdout
    }

    /// Runs the command line with `-o json`, which must succeed; what it printed.
    pub fn json<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> serde_json::Value {
        let arguments = arguments.into_iter().map(|argument| argument.as_ref().to_owned());
        let text = self.must(arguments.chain(["-o", "json"].map(Into::into)));
        serde_json::from_str(&text).expect("JSON")
    }

    /// `imagevold fsck`, while the daemon does not run.
    pub fn fsck_offline(&self) -> Ran {
        self.fsck_offline_with(&[])
    }

    /// The same with further flags.
    pub fn fsck_offline_with(&self, flags: &[&str]) -> Ran {
        let mut command = Command::new(program("imagevold"));
        command.arg("--config").arg(self.dir().join("config.yaml")).args(self.dir_flags()).arg("fsck").args(flags);
        Ran::of(&command.stdin(Stdio::null()).output().expect("run imagevold fsck"))
    }

    /// Applies a manifest.
    pub fn apply(&self, manifest: &str) {
        let file = self.dir().join("applied.yaml");
        std::fs::write(&file, manifest).expect("write the manifest");
        self.must([OsStr::new("apply"), OsStr::new("-f"), file.as_os_str()]);
    }

    /// Waits until a pod's volumes are all mounted.
    pub fn wait_mounted(&self, pod: &str) {
        self.must(["wait", "pod", pod, "--for=mounted", "--timeout=120s"]);
    }

    /// Where a volume of a pod is mounted.
    pub fn path(&self, pod: &str, volume: &str) -> PathBuf {
        self.must(["path", "pod", pod, volume]).trim().into()
    }

    /// The mount points below the directory, in the calling thread's namespace.
    pub fn mounts(&self) -> Vec<PathBuf> {
        let table = std::fs::read_to_string("/proc/thread-self/mountinfo").expect("mountinfo");
        let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
        points.filter(|point| point.starts_with(self.dir())).collect()
    }

    fn dir_flags(&self) -> Vec<String> {
        let flag = |name: &str, place: &str| [name.to_owned(), self.dir().join(place).display().to_string()];
        let places = [
            ("--state-dir", "state"),
            ("--run-dir", "run"),
            ("--root-dir", "kubelet"),
            ("--manifest-dir", "manifests"),
        ];
        places.into_iter().flat_map(|(name, place)| flag(name, place)).collect()
    }
}

impl Default for Daemon {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Daemon {
    /// Ends the process and unmounts, deepest first, so that the directory can go.
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
        let mut mounts = self.mounts();
        mounts.sort();
        for mount in mounts.iter().rev() {
            // What cannot be unmounted goes with the namespace.
            nix::mount::umount2(mount, nix::mount::MntFlags::MNT_DETACH).unwrap_or_default();
        }
    }
}

// === impl Ran ===

impl Ran {
    fn of(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            ok: output.status.success(),
            code: output.status.code(),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        }
    }
}

/// A program of this workspace, beside what runs now: a test (`target/<profile>/deps/<test>`) or a program (`target/<profile>/<program>`).
fn program(name: &str) -> PathBuf {
    let running = std::env::current_exe().unwrap_or_default();
    let found = running.ancestors().skip(1).take(2).map(|dir| dir.join(name)).find(|program| program.is_file());
    assert!(found.is_some(), "{name} is not built beside {}: run `make build` first", running.display());
    found.unwrap_or_default()
}
