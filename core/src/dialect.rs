//! The dialects: pure translators between a protocol's frames and the core's commands and events.
//!
//! A dialect owns no rule, no timer and no storage.

pub mod imboy;

/// What the operator can set, for all dialects.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Settings {
    /// See [`imboy::Settings`].
    pub imboy: imboy::Settings,
}
