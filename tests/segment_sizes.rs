//! Every segment size that `initdb --wal-segsize` can make.
mod common;

use common::receiver::streaming;
use common::{Archive, ServerOptions};

#[test]
fn segments_of_one_megabyte() {
    receive(1, 5 << 10);
}

#[test]
fn segments_of_2_4_and_8_megabytes() {
    for segment_mb in [2, 4, 8] {
        receive(segment_mb, 10 << 10);
    }
}

#[test]
fn segments_of_64_megabytes() {
    receive(64, 70 << 10);
}

/// Without filling one: its name, its size, its content and the zeros behind it.
#[test]
fn segments_of_one_gigabyte() {
    receive(1024, 1 << 10);
}

fn receive(segment_mb: u32, kilobytes: u32) {
    let server = ServerOptions::default().segment_mb(segment_mb).start();
    let archive = Archive::new();
    let receiver = streaming(&server, &archive);
    let end = server.write_wal(kilobytes);
    server.wait_flushed(end);
    receiver.stop();
    archive.assert_holds(&server, 1, end);
    archive.assert_readable(&server);
    assert_eq!(
        archive.segments().len() as u64,
        (end.0 - first(&archive, segment_mb)) >> 20 >> segment_mb.ilog2()
    );
}

/// Where the archive begins.
fn first(archive: &Archive, segment_mb: u32) -> u64 {
    let names = archive.names();
    u64::from_str_radix(&names[0][16..24], 16).expect("a segment's number") * (u64::from(segment_mb) << 20)
}
