//! The store through its public face: the same script on disk and in memory, what an opening does
//! with every kind of damage, and what is answered from memory.

#[path = "storage/chats.rs"]
mod chats;
#[path = "storage/cold.rs"]
mod cold;
#[path = "storage/durability.rs"]
mod durability;
#[path = "storage/fake.rs"]
mod fake;
#[path = "storage/fixtures.rs"]
mod fixtures;
#[path = "storage/model.rs"]
mod model;
#[path = "storage/recovery.rs"]
mod recovery;
#[path = "storage/repair.rs"]
mod repair;
#[path = "storage/sample.rs"]
mod sample;
#[path = "storage/sample_v2.rs"]
mod sample_v2;
#[path = "storage/script.rs"]
mod script;
#[path = "storage/support.rs"]
mod support;
