//! Faults of the machine under a real server: a disk whose syncs fail, and a wall clock that is
//! set. The library that makes them is preloaded (`faults/preload.c`).

#[path = "faults/clock.rs"]
mod clock;
mod common;
#[path = "faults/preload.rs"]
mod preload;
#[path = "faults/syncs.rs"]
mod syncs;
