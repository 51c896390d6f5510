//! Tests of [`super`].

use super::*;
use crate::port::link::session::with_peers::{pair, tls_pair};

#[tokio::test]
async fn what_is_flushed_of_usual_frames_is_one_piece_for_the_kernel() {
    let (ours, _peer) = pair();
    ours.set_nonblocking(true).unwrap();
    let socket = Arc::new(Stream::adopt(ours.into()).unwrap());
    socket.writable().await.unwrap();
    let prof = Profiler::new(crate::prof::Want::default());
    let at = PortAt { slot: 0, number: 1, side: crate::prof::Side::Client };
    let mut wire = Wire::new(socket, None, Role::Client, false, Arc::default(), (prof, at));
    let mut frames = 0;
    while !wire.wants_flush() {
        wire.push(&VnetHeader::default(), &[[0; 1514].as_slice().into()], (1, 1514), None, &mut ()).unwrap();
        frames += 1;
    }
    assert_eq!(frames, 42);
    assert!(wire.queue.waiting().len() <= 45 * 1448, "{}", wire.queue.waiting().len());
    let mut sent = (0, 0);
    assert!(wire.write_once(&mut sent, &mut ()).unwrap());
    assert!(wire.queue.is_empty());
    assert_eq!(sent.0, 42);
}

#[tokio::test]
async fn a_flush_goes_through_tls_in_one_write() {
    let (ours, _peer) = pair();
    ours.set_nonblocking(true).unwrap();
    let socket = Arc::new(Stream::adopt(ours.into()).unwrap());
    socket.writable().await.unwrap();
    let tls = Box::new(tls_pair().0.into());
    let prof = Profiler::new(crate::prof::Want::default());
    let at = PortAt { slot: 0, number: 1, side: crate::prof::Side::Server };
    let mut wire = Wire::new(socket, Some(tls), Role::Server, true, Arc::default(), (prof, at));
    let bytes = [0; MAX_FRAME];
    // The most that can wait: just too little for a flush, and the largest message behind it.
    for len in [FLUSH_AT - VnetHeader::LEN - 11, MAX_FRAME] {
        assert!(!wire.wants_flush());
        let pieces = [Piece::from(&bytes[..len])];
        let sent = (1, len as u32);
        wire.push(&VnetHeader::default(), &pieces, sent, None, &mut ()).unwrap();
    }
    assert!(wire.wants_flush());
    let mut sent = (0, 0);
    assert!(wire.write_once(&mut sent, &mut ()).unwrap());
    assert!(wire.queue.is_empty(), "{} bytes are left for a second write", wire.queue.waiting().len());
    assert_eq!(sent.0, 2);
}
