//! Which operations the kernel's io_uring has.

use std::io;

use io_uring::{IoUring, Probe, opcode};

/// Every operation that is issued somewhere, with its name in io_uring_enter(2).
const NEEDED: [(&str, u8); 12] = [
    ("READ_FIXED", opcode::ReadFixed::CODE),
    ("WRITE_FIXED", opcode::WriteFixed::CODE),
    ("RECV", opcode::Recv::CODE),
    ("RECVMSG", opcode::RecvMsg::CODE),
    ("SEND", opcode::Send::CODE),
    ("FSYNC", opcode::Fsync::CODE),
    ("TIMEOUT", opcode::Timeout::CODE),
    ("ASYNC_CANCEL", opcode::AsyncCancel::CODE),
    ("OPENAT", opcode::OpenAt::CODE),
    ("CLOSE", opcode::Close::CODE),
    ("FALLOCATE", opcode::Fallocate::CODE),
    ("RENAMEAT", opcode::RenameAt::CODE),
];

/// The names of the operations that walring needs and this kernel lacks; an error where the kernel gives
/// no ring or does not tell.
pub fn missing_operations() -> io::Result<Vec<&'static str>> {
    let ring = IoUring::new(1)?;
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    let missing = NEEDED.iter().filter(|(_, code)| !probe.is_supported(*code));
    Ok(missing.map(|(name, _)| *name).collect())
}
