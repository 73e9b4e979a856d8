//! The calls that neither `nix` nor `rustix` offers in safe form. This is the only module of the workspace with
//! `unsafe` code: each function wraps one system call and keeps no state of its own.
#![expect(unsafe_code, reason = "system calls without a safe wrapper in nix or rustix; nothing else lives here")]

use std::{
    io,
    mem::size_of,
    os::fd::{AsRawFd, BorrowedFd},
    ptr,
};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal};

/// `LO_FLAGS_READ_ONLY` of `<linux/loop.h>`.
pub(crate) const LO_FLAGS_READ_ONLY: u32 = 1;
/// `LO_FLAGS_AUTOCLEAR` of `<linux/loop.h>`: the device frees itself on its last close.
pub(crate) const LO_FLAGS_AUTOCLEAR: u32 = 4;

/// `struct loop_info64` of `<linux/loop.h>`.
#[repr(C)]
#[derive(Clone, Copy)]
struct LoopInfo64 {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config` of `<linux/loop.h>`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo64,
    reserved: [u64; 8],
}

// The sizes that the kernel's header gives on every 64-bit architecture.
const _: () = assert!(size_of::<LoopInfo64>() == 232);
const _: () = assert!(size_of::<LoopConfig>() == 304);

/// What [`set_lease`] asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lease {
    /// `F_WRLCK`: granted only when nobody else has the file open.
    Write,
    /// `F_UNLCK`: gives the lease back.
    None,
}

/// The raw ioctls of `<linux/loop.h>`, by the numbers given there.
mod ioctl {
    nix::ioctl_none_bad!(loop_ctl_get_free, 0x4C82);
    nix::ioctl_write_ptr_bad!(loop_configure, 0x4C0A, super::LoopConfig);
}

// === impl LoopConfig ===

impl LoopConfig {
    /// A configuration which binds `file` from its first byte to its end.
    pub(crate) fn new(file: BorrowedFd<'_>, block_size: u32, flags: u32) -> Self {
        let info = LoopInfo64 {
            device: 0,
            inode: 0,
            rdevice: 0,
            offset: 0,
            size_limit: 0,
            number: 0,
            encrypt_type: 0,
            encrypt_key_size: 0,
            flags,
            file_name: [0; 64],
            crypt_name: [0; 64],
            encrypt_key: [0; 32],
            init: [0; 2],
        };
        // A borrowed descriptor is never negative.
        Self { fd: file.as_raw_fd().unsigned_abs(), block_size, info, reserved: [0; 8] }
    }
}

/// `mount_setattr(mount, "", AT_EMPTY_PATH, attributes)`: changes this one mount.
pub(crate) fn mount_setattr(mount: BorrowedFd<'_>, attributes: &libc::mount_attr) -> io::Result<()> {
    // SAFETY: the descriptor is open for the length of the call, the path is a static NUL-terminated string, and the
    // kernel reads exactly the given number of bytes from a live, fully initialised struct.
    let status = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            ptr::from_ref(attributes),
            size_of::<libc::mount_attr>(),
        )
    };
    if status == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// `ioctl(control, LOOP_CTL_GET_FREE)`: the number of a loop device that was free a moment ago, made if need be.
pub(crate) fn loop_get_free(control: BorrowedFd<'_>) -> io::Result<i32> {
    // SAFETY: the descriptor is open for the length of the call, and this request has no argument.
    let number = unsafe { ioctl::loop_ctl_get_free(control.as_raw_fd()) };
    Ok(number?)
}

/// `ioctl(device, LOOP_CONFIGURE, config)`. `EBUSY`: somebody else has bound the device since.
pub(crate) fn loop_configure(device: BorrowedFd<'_>, config: &LoopConfig) -> io::Result<()> {
    // SAFETY: the descriptor is open for the length of the call, and the kernel only reads the struct, whose layout
    // is the one of its header (checked above).
    let status = unsafe { ioctl::loop_configure(device.as_raw_fd(), ptr::from_ref(config)) };
    status?;
    Ok(())
}

/// `fcntl(file, F_SETLEASE, lease)`. `EAGAIN`: the file is open elsewhere.
pub(crate) fn set_lease(file: BorrowedFd<'_>, lease: Lease) -> io::Result<()> {
    let lease = match lease {
        Lease::Write => libc::F_WRLCK,
        Lease::None => libc::F_UNLCK,
    };
    // SAFETY: the descriptor is open for the length of the call, and the third argument is the int that this command
    // expects.
    let status = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, lease) };
    if status == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes the whole process ignore `SIGIO`, whose default action ends it.
pub(crate) fn ignore_sigio() -> io::Result<()> {
    let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
    // SAFETY: no handler function is installed, so none can break the rules for handlers.
    let previous = unsafe { nix::sys::signal::sigaction(Signal::SIGIO, &ignore) };
    previous?;
    Ok(())
}
