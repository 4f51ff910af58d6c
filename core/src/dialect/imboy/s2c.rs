//! S2C: what the server says in its own name and does not store (protocols/imboy.md, *S2C events*).

use crate::dialect::imboy::{Settings, write_server_ts};
use crate::dialect::json::{write_integer, write_string};

/// The id, and payload `msg_type`, of the reminder that a token is past its time.
pub const REFRESH_TOKEN: &str = "please_refresh_token";
/// The same of the news that another device has connected.
pub const ANOTHER_DEVICE: &str = "logged_another_device";

/// Appends the reminder that the token is past its time; `to` is empty before a login.
pub fn write_refresh_token(settings: &Settings, to: &str, wall_ms: u64, out: &mut Vec<u8>) {
    write(settings, REFRESH_TOKEN, to, REFRESH_TOKEN, |_| (), wall_ms, out);
}

/// Appends the news that the device `did`, of the kind `dname`, has connected.
pub fn write_another_device(
    settings: &Settings,
    to: &str,
    did: &str,
    dname: &str,
    wall_ms: u64,
    out: &mut Vec<u8>,
) {
    let members = |out: &mut Vec<u8>| {
        out.extend_from_slice(b",\"did\":");
        write_string(did, out);
        out.extend_from_slice(b",\"dname\":");
        write_string(dname, out);
        out.extend_from_slice(b",\"content\":\"\"");
    };
    write(settings, ANOTHER_DEVICE, to, ANOTHER_DEVICE, members, wall_ms, out);
}

/// Appends the answer to the message `id` that may not be sent to `to`.
pub fn write_refused(
    settings: &Settings,
    msg_type: &str,
    id: Option<&str>,
    to: &str,
    wall_ms: u64,
    out: &mut Vec<u8>,
) {
    write(settings, id.unwrap_or_default(), to, msg_type, |_| (), wall_ms, out);
}

/// A message from nobody; `members` writes what the payload has behind `msg_type`.
fn write(
    settings: &Settings,
    id: &str,
    to: &str,
    msg_type: &str,
    members: impl FnOnce(&mut Vec<u8>),
    wall_ms: u64,
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(b"{\"id\":");
    write_string(id, out);
    out.extend_from_slice(b",\"type\":\"S2C\",\"from\":\"\",\"to\":\"");
    settings.write_id(to, out);
    out.extend_from_slice(b"\",\"payload\":{\"msg_type\":\"");
    out.extend_from_slice(msg_type.as_bytes());
    out.push(b'"');
    members(out);
    out.extend_from_slice(b"},\"created_at\":");
    write_integer(wall_ms as i64, out);
    write_server_ts(wall_ms, out);
}
