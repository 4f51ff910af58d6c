//! A second, naive reading of RFC 6455 (and of RFC 7692 section 6), for streams in one piece.
//! Shares no code with the first.

use super::Said;
use crate::limits::{DEFLATED_BYTES_MAX, MESSAGE_BYTES_MAX};
use crate::ws::WsError;
use crate::ws::frame::Role;

/// Reads a whole stream at once, rule by rule, with no thought for speed.
pub(super) fn reference(role: Role, deflate: bool, mut stream: &[u8]) -> Vec<Said> {
    let mut said = Vec::new();
    let mut message: Option<(u8, Vec<u8>)> = None;
    loop {
        match reference_frame(role, deflate, stream, &mut message, &mut said) {
            Ok(Some(len)) => stream = &stream[len..],
            Ok(None) => return said,
            Err(error) => {
                said.push(Said::Error(error));
                return said;
            }
        }
    }
}

/// One frame; returns its length, or `None` when the stream ends in it or because of it.
fn reference_frame(
    role: Role,
    deflate: bool,
    bytes: &[u8],
    message: &mut Option<(u8, Vec<u8>)>,
    said: &mut Vec<Said>,
) -> Result<Option<usize>, WsError> {
    if bytes.len() < 2 {
        return Ok(None);
    }
    let (fin, opcode) = (bytes[0] >> 7 == 1, bytes[0] & 0xf);
    let (has_mask, short) = (bytes[1] >> 7 == 1, usize::from(bytes[1] & 0x7f));
    let rsv1 = bytes[0] & 0x40;
    if bytes[0] & 0x30 > 0 || rsv1 > 0 && !(deflate && (opcode == 1 || opcode == 2)) {
        return Err(WsError::ReservedBits);
    }
    if ![0, 1, 2, 8, 9, 10].contains(&opcode) {
        return Err(WsError::ReservedOpcode);
    }
    if has_mask == (role == Role::Client) {
        return Err(WsError::Masking);
    }
    if opcode >= 8 && (short >= 126 || !fin) {
        return Err(WsError::ControlFrame);
    }
    let long = [0, 2, 8][short.saturating_sub(125)];
    if bytes.len() < 2 + long {
        return Ok(None);
    }
    let read = |bytes: &[u8]| bytes.iter().fold(0u64, |len, &byte| len << 8 | u64::from(byte));
    let len = if long == 0 { short as u64 } else { read(&bytes[2..2 + long]) };
    if long == 2 && len < 126 || long == 8 && !(65_536..1 << 63).contains(&len) {
        return Err(WsError::LengthForm);
    }
    let start = 2 + long + if has_mask { 4 } else { 0 };
    if bytes.len() < start {
        return Ok(None);
    }
    let mask = if has_mask { &bytes[start - 4..start] } else { &[0; 4] };
    let payload: Vec<u8> = bytes[start..]
        .iter()
        .take(len.min(1 << 30) as usize)
        .zip(mask.iter().cycle())
        .map(|(byte, key)| byte ^ key)
        .collect();
    let whole = payload.len() as u64 == len;
    if opcode >= 8 {
        if !whole {
            return Ok(None);
        }
        match opcode {
            8 => said.push(reference_close(&payload)?),
            9 => said.push(Said::Ping(payload)),
            _ => said.push(Said::Pong(payload)),
        }
        return Ok((opcode != 8).then_some(start + len as usize));
    }
    if message.is_some() != (opcode == 0) {
        return Err(WsError::Fragmentation);
    }
    // A compressed message's kind has the bit too.
    let (kind, assembled) = message.get_or_insert((opcode | rsv1, Vec::new()));
    let most = if *kind > 2 { DEFLATED_BYTES_MAX } else { MESSAGE_BYTES_MAX };
    if assembled.len() as u64 + len > most as u64 {
        return Err(WsError::TooBig);
    }
    assembled.extend(&payload);
    if *kind == 1
        && let Err(error) = std::str::from_utf8(assembled)
        && (error.error_len().is_some() || whole && fin)
    {
        return Err(WsError::Utf8);
    }
    if !whole {
        return Ok(None);
    }
    if fin && let Some((kind, bytes)) = message.take() {
        said.push(match kind {
            1 => Said::Text(String::from_utf8(bytes).map_err(|_| WsError::Utf8)?),
            2 => Said::Binary(bytes),
            kind => Said::Compressed(kind & 2 > 0, bytes),
        });
    }
    Ok(Some(start + len as usize))
}

fn reference_close(payload: &[u8]) -> Result<Said, WsError> {
    match payload {
        [] => Ok(Said::Close(None, String::new())),
        [_] => Err(WsError::CloseFrame),
        [high, low, reason @ ..] => {
            let code = u16::from(*high) << 8 | u16::from(*low);
            let reserved = [1004, 1005, 1006].contains(&code);
            if !(1000..1015).contains(&code) && !(3000..5000).contains(&code) || reserved {
                return Err(WsError::CloseFrame);
            }
            let reason = String::from_utf8(reason.to_vec()).map_err(|_| WsError::Utf8)?;
            Ok(Said::Close(Some(code), reason))
        }
    }
}
