//! The format for those who have bytes and no store: tools, and the fuzz targets. Decoders trust
//! nothing; encoders are those that batches are made with.

pub use crate::error::Malformed;

/// Messages.
pub mod record {
    pub use crate::record::{get, len, put};
}

/// Values of `ids`, `dedup`, `rows`, `due` and `owed`.
pub mod value {
    pub use crate::value::*;
}

/// Keys.
pub mod key {
    pub use crate::keys::*;
}

/// One operation of a batch: the number of its family, the key, the value unless it is deleted.
pub type Operation<'a> = (u8, &'a [u8], Option<&'a [u8]>);

/// The operations of a batch, up to the first that is none. What the header says is not looked at.
pub fn operations(batch: &[u8]) -> impl Iterator<Item = Result<Operation<'_>, Malformed>> {
    crate::batch::ops(batch).map(|op| op.map(|op| (op.family.number(), op.key, op.value)))
}

/// The number of a batch that has this seal; `None`: it has not.
pub fn sealed(batch: &[u8], seal: [u8; 8]) -> Option<u64> {
    crate::batch::sealed(batch, seal)
}
