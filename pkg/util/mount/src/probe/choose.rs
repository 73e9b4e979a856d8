//! Which back end to take, given what was asked for and what was found.

use std::{fmt, str::FromStr};

use super::{Outcome, ProbeReport};
use crate::{Backend, MountError};

/// The back end as configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Requested {
    /// The best that works.
    #[default]
    Auto,
    /// Files, or nothing.
    Erofs,
    /// Loop devices, or nothing.
    ErofsLoop,
}

/// No back end, of those that may be taken, works on this machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no image back end can be used here ({requested} was asked for): {}", List(missing))]
pub struct NoBackend {
    /// What was asked for.
    pub requested: Requested,
    /// Each back end that was considered, the most wanted first.
    pub missing: Vec<MissingBackend>,
}

/// A back end that does not work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingBackend {
    /// Which one.
    pub backend: Backend,
    /// What it lacks.
    pub reason: String,
}

/// A string that names no back end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown image back end {given:?}: it is one of auto, erofs, erofs-loop")]
pub struct UnknownBackend {
    given: String,
}

struct List<'a>(&'a [MissingBackend]);

// === impl Requested ===

impl FromStr for Requested {
    type Err = UnknownBackend;

    fn from_str(given: &str) -> Result<Self, Self::Err> {
        match given {
            "auto" => Ok(Self::Auto),
            "erofs" => Ok(Self::Erofs),
            "erofs-loop" => Ok(Self::ErofsLoop),
            _ => Err(UnknownBackend { given: given.to_owned() }),
        }
    }
}

impl fmt::Display for Requested {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Erofs => Backend::Erofs.fmt(f),
            Self::ErofsLoop => Backend::ErofsLoop.fmt(f),
        }
    }
}

// === impl List ===

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, MissingBackend { backend, reason }) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{backend}: {reason}")?;
        }
        Ok(())
    }
}

/// Takes the back end that was asked for, or the better of those that work: files before loop devices, for those cost
/// a device per layer and a second copy in the page cache.
///
/// A back end that was not tried (`panic_on_warn`) is taken only where it was asked for by name: whoever does knows
/// the kernel.
pub fn choose(requested: Requested, report: &ProbeReport) -> Result<Backend, NoBackend> {
    let candidates: &[Backend] = match requested {
        Requested::Auto => &[Backend::Erofs, Backend::ErofsLoop],
        Requested::Erofs => &[Backend::Erofs],
        Requested::ErofsLoop => &[Backend::ErofsLoop],
    };
    let mut missing = Vec::new();
    for &backend in candidates {
        match lacks(requested, report.of(backend)) {
            None => return Ok(backend),
            Some(reason) => missing.push(MissingBackend { backend, reason }),
        }
    }
    Err(NoBackend { requested, missing })
}

/// Why a back end cannot be taken. `None`: it can.
fn lacks(requested: Requested, outcome: &Outcome) -> Option<String> {
    match (outcome, requested) {
        (Outcome::Works, _) | (Outcome::NotTried, Requested::Erofs | Requested::ErofsLoop) => None,
        (Outcome::Fails { reason }, _) => Some(reason.clone()),
        (Outcome::NotTried, Requested::Auto) => Some(
            "not tried, for kernel.panic_on_warn is set and a kernel with ext4's debugging checks would stop; \
             ask for it by name to use it all the same"
                .to_owned(),
        ),
    }
}

/// An error in words for the administrator: what failed, what the kernel says, and what usually helps.
pub(super) fn explain(error: &MountError) -> String {
    let MountError::Kernel { op, source, .. } = error else { return error.to_string() };
    let hint = match (*op, source.raw_os_error()) {
        ("fsopen(erofs)", Some(libc::ENODEV)) => "; the kernel has no erofs file system (module erofs)",
        (_, Some(libc::EPERM)) => "; CAP_SYS_ADMIN is needed",
        ("fsconfig(create)", Some(libc::ENOTBLK)) => {
            "; mounting from files needs Linux 6.12 and a state directory that is not on tmpfs or overlayfs"
        }
        ("fsconfig(create)", Some(libc::EINVAL)) => "; blocks of 512 bytes on several devices need Linux 6.4",
        ("fsconfig(flag)", Some(libc::EINVAL)) => "; the option needs Linux 6.13",
        ("read", Some(libc::EIO)) => "; the disk's sectors are larger than 512 bytes",
        ("mount_setattr", Some(libc::ENOSYS)) => "; Linux 5.12 is needed",
        _ => "",
    };
    format!("{error}: {source}{hint}")
}

#[cfg(test)]
mod tests {
    use std::{io, path::Path};

    use rstest::rstest;

    use super::*;

    fn fails(reason: &str) -> Outcome {
        Outcome::Fails { reason: reason.to_owned() }
    }

    fn report(erofs: Outcome, erofs_loop: Outcome) -> ProbeReport {
        ProbeReport { erofs, erofs_directio: fails("irrelevant"), erofs_loop }
    }

    #[rstest]
    #[case(Requested::Auto, Outcome::Works, Outcome::Works, Backend::Erofs)]
    #[case(Requested::Auto, Outcome::Works, fails("x"), Backend::Erofs)]
    #[case(Requested::Auto, fails("x"), Outcome::Works, Backend::ErofsLoop)]
    #[case(Requested::Auto, Outcome::NotTried, Outcome::Works, Backend::ErofsLoop)]
    #[case(Requested::Erofs, Outcome::Works, Outcome::Works, Backend::Erofs)]
    #[case(Requested::Erofs, Outcome::NotTried, Outcome::Works, Backend::Erofs)]
    #[case(Requested::ErofsLoop, Outcome::Works, Outcome::Works, Backend::ErofsLoop)]
    #[case(Requested::ErofsLoop, fails("x"), Outcome::Works, Backend::ErofsLoop)]
    fn chooses(
        #[case] requested: Requested,
        #[case] erofs: Outcome,
        #[case] erofs_loop: Outcome,
        #[case] expected: Backend,
    ) {
        assert_eq!(choose(requested, &report(erofs, erofs_loop)), Ok(expected));
    }

    #[rstest]
    #[case(Requested::Auto, fails("a"), fails("b"), "(auto was asked for): erofs: a; erofs-loop: b")]
    #[case(Requested::Erofs, fails("a"), Outcome::Works, "(erofs was asked for): erofs: a")]
    #[case(Requested::ErofsLoop, Outcome::Works, fails("b"), "(erofs-loop was asked for): erofs-loop: b")]
    fn says_what_is_missing(
        #[case] requested: Requested,
        #[case] erofs: Outcome,
        #[case] erofs_loop: Outcome,
        #[case] expected: &str,
    ) {
        let error = choose(requested, &report(erofs, erofs_loop)).unwrap_err();
        assert_eq!(error.to_string(), format!("no image back end can be used here {expected}"));
    }

    #[test]
    fn auto_never_takes_what_could_stop_the_kernel() {
        let error = choose(Requested::Auto, &report(Outcome::NotTried, fails("b"))).unwrap_err();
        assert!(error.missing[0].reason.contains("panic_on_warn"));
        assert_eq!(error.missing[1], MissingBackend { backend: Backend::ErofsLoop, reason: "b".to_owned() });
    }

    #[rstest]
    #[case("auto", Some(Requested::Auto))]
    #[case("erofs", Some(Requested::Erofs))]
    #[case("erofs-loop", Some(Requested::ErofsLoop))]
    #[case("EROFS", None)]
    #[case("", None)]
    fn reads_and_writes_the_configured_name(#[case] name: &str, #[case] expected: Option<Requested>) {
        let parsed = name.parse::<Requested>().ok();
        assert_eq!(parsed, expected);
        assert!(parsed.is_none_or(|requested| requested.to_string() == name));
    }

    #[rstest]
    #[case("fsopen(erofs)", libc::ENODEV, "module erofs")]
    #[case("fsopen(erofs)", libc::EPERM, "CAP_SYS_ADMIN")]
    #[case("fsconfig(create)", libc::ENOTBLK, "tmpfs")]
    #[case("read", libc::EIO, "sectors")]
    #[case("move_mount", libc::EIO, "move_mount failed for /x: Input/output error (os error 5)")]
    fn explains(#[case] op: &'static str, #[case] errno: i32, #[case] expected: &str) {
        let reason = explain(&MountError::call(op, Path::new("/x"), io::Error::from_raw_os_error(errno)));
        assert!(reason.contains(expected), "{reason}");
    }
}
