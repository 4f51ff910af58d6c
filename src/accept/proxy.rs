//! The PROXY protocol, version 2 (haproxy's `proxy-protocol.txt`, section 2.2): what a proxy that
//! is trusted says about the client before the client's own bytes. Version 1 is not spoken.
//!
//! It reads no socket and trusts nobody: who may send a header is the listener's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ringpost_storage::crc32c;

/// What every header begins with. No HTTP request does.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, command, family, length.
const HEAD_BYTES: usize = 16;
/// A whole header: addresses and what else a proxy tells (TLS names, certificates' subjects).
pub const HEADER_BYTES_MAX: usize = 4 << 10;
/// The one extension that is looked at: a checksum of the header, in network order.
const TLV_CRC32C: u8 = 0x03;

/// Whose connection it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// The proxy's own, a health check for one; or the proxy does not say.
    Proxy,
    /// A client's.
    Client(IpAddr),
}

/// The bytes are no header, or none that we take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Malformed;

/// Reads a header from the start of `bytes`. `Ok(None)`: not all of it is there yet; otherwise
/// how many bytes it has.
///
/// # Errors
/// As early as the bytes show it.
pub fn parse(bytes: &[u8]) -> Result<Option<(Origin, usize)>, Malformed> {
    let known = bytes.len().min(SIGNATURE.len());
    if bytes[..known] != SIGNATURE[..known] {
        return Err(Malformed);
    }
    let Some(head) = bytes.get(..HEAD_BYTES) else { return Ok(None) };
    let [version_command, family, high, low] = head[SIGNATURE.len()..] else {
        return Err(Malformed);
    };
    let len = HEAD_BYTES + usize::from(u16::from_be_bytes([high, low]));
    if version_command >> 4 != 2 || len > HEADER_BYTES_MAX {
        return Err(Malformed);
    }
    let local = match version_command & 0xf {
        0 => true,
        1 => false,
        _ => return Err(Malformed),
    };
    let Some(header) = bytes.get(..len) else { return Ok(None) };
    let body = &header[HEAD_BYTES..];
    let (origin, rest) = match family {
        // Whatever a local connection says of addresses is to be ignored.
        _ if local => return Ok(Some((Origin::Proxy, len))),
        // TCP over IPv4: both addresses, both ports.
        0x11 => {
            let (addresses, rest) = body.split_at_checked(12).ok_or(Malformed)?;
            let source: [u8; 4] = addresses[..4].try_into().expect("four bytes");
            (Origin::Client(Ipv4Addr::from(source).into()), rest)
        }
        // TCP over IPv6.
        0x21 => {
            let (addresses, rest) = body.split_at_checked(36).ok_or(Malformed)?;
            let source: [u8; 16] = addresses[..16].try_into().expect("sixteen bytes");
            (Origin::Client(IpAddr::from(Ipv6Addr::from(source)).to_canonical()), rest)
        }
        // A Unix socket in front of the proxy: two paths.
        0x31 => (Origin::Proxy, body.get(216..).ok_or(Malformed)?),
        // The proxy does not know; what follows says nothing.
        0x00 => return Ok(Some((Origin::Proxy, len))),
        // Datagrams, and what is not assigned.
        _ => return Err(Malformed),
    };
    check_extensions(header, rest)?;
    Ok(Some((origin, len)))
}

/// Passes over the extensions, each a type, a length and so many bytes.
fn check_extensions(header: &[u8], mut rest: &[u8]) -> Result<(), Malformed> {
    while !rest.is_empty() {
        let (head, after) = rest.split_at_checked(3).ok_or(Malformed)?;
        let len = usize::from(u16::from_be_bytes([head[1], head[2]]));
        let (value, after) = after.split_at_checked(len).ok_or(Malformed)?;
        if head[0] == TLV_CRC32C {
            // It is of the whole header, with zeros in its own place.
            let wanted: [u8; 4] = value.try_into().map_err(|_| Malformed)?;
            let at = header.len() - after.len() - len;
            let mut plain = header.to_vec();
            plain[at..at + len].fill(0);
            if crc32c(&plain) != u32::from_be_bytes(wanted) {
                return Err(Malformed);
            }
        }
        rest = after;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header with this command, family and body.
    fn header(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let len = u16::try_from(body.len()).expect("short");
        [&SIGNATURE[..], &[0x20 | command, family], &len.to_be_bytes(), body].concat()
    }

    /// Source, destination, ports 1 and 2.
    const V4: [u8; 12] = [192, 0, 2, 7, 10, 0, 0, 1, 0, 1, 0, 2];

    fn v6(source: &str) -> Vec<u8> {
        let source: Ipv6Addr = source.parse().expect("an address");
        [&source.octets()[..], &[0; 16], &[0, 1, 0, 2]].concat()
    }

    fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
        let len = u16::try_from(value.len()).expect("short");
        [&[kind][..], &len.to_be_bytes(), value].concat()
    }

    fn client(address: &str) -> Origin {
        Origin::Client(address.parse().expect("an address"))
    }

    #[test]
    fn each_family_says_whose_connection_it_is() {
        let extensions = [tlv(0x04, b"padding"), tlv(0x20, &[1; 300]), tlv(0xE0, b"")].concat();
        for (bytes, origin) in [
            (header(1, 0x11, &V4), client("192.0.2.7")),
            (header(1, 0x11, &[&V4[..], &extensions].concat()), client("192.0.2.7")),
            (header(1, 0x21, &v6("2001:db8::7")), client("2001:db8::7")),
            (header(1, 0x21, &[v6("2001:db8::7"), extensions].concat()), client("2001:db8::7")),
            // The same client, whatever socket the proxy has.
            (header(1, 0x21, &v6("::ffff:192.0.2.7")), client("192.0.2.7")),
            (header(0, 0x00, &[]), Origin::Proxy),
            (header(0, 0x11, &V4), Origin::Proxy),
            (header(0, 0x21, b"to be ignored"), Origin::Proxy),
            (header(1, 0x00, b"unknown"), Origin::Proxy),
            (header(1, 0x31, &[0; 216]), Origin::Proxy),
        ] {
            let len = bytes.len();
            let more = [&bytes[..], b"GET / HTTP/1.1\r\n"].concat();
            assert_eq!(parse(&more), Ok(Some((origin, len))), "{bytes:?}");
            for cut in 0..len {
                assert_eq!(parse(&bytes[..cut]), Ok(None), "{cut} of {bytes:?}");
            }
        }
    }

    #[test]
    fn what_is_no_header_is_told_as_early_as_possible() {
        let mut version_1 = header(1, 0x11, &V4);
        version_1[12] = 0x11;
        let long = u16::try_from(HEADER_BYTES_MAX - HEAD_BYTES + 1).expect("short").to_be_bytes();
        for bytes in [
            b"G".to_vec(),
            b"\r\n\r\n\0\r\nQUIT\r".to_vec(),
            b"PROXY TCP4 192.0.2.7 10.0.0.1 1 2\r\n".to_vec(),
            version_1,
            header(2, 0x11, &V4),
            header(1, 0x12, &V4),
            header(1, 0x13, &V4),
            header(1, 0x41, &V4),
            header(1, 0x11, &V4[..11]),
            header(1, 0x21, &v6("::1")[..35]),
            header(1, 0x31, &[0; 215]),
            // Extensions that end too early.
            header(1, 0x11, &[&V4[..], &[4]].concat()),
            header(1, 0x11, &[&V4[..], &[4, 0, 2, 0]].concat()),
            header(1, 0x11, &[&V4[..], &[4, 255, 255]].concat()),
            // A length that nobody needs: told before so much is read.
            [&SIGNATURE[..], &[0x21, 0x11], &long].concat(),
        ] {
            assert_eq!(parse(&bytes), Err(Malformed), "{bytes:?}");
        }
    }

    #[test]
    fn a_checksum_must_be_right() {
        let with = |crc: [u8; 4]| {
            let body = [&V4[..], &tlv(0x04, b"x"), &tlv(TLV_CRC32C, &crc), &tlv(0x05, b"id")];
            header(1, 0x11, &body.concat())
        };
        // Computed bit by bit, as the polynomial says.
        let crc = with([0; 4]).iter().fold(u32::MAX, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
                if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 }
            })
        });
        let good = with((!crc).to_be_bytes());
        assert_eq!(parse(&good), Ok(Some((client("192.0.2.7"), good.len()))));
        assert_eq!(parse(&with(crc.to_be_bytes())), Err(Malformed));
        let mut changed = good;
        changed[HEAD_BYTES] ^= 1;
        assert_eq!(parse(&changed), Err(Malformed));
        let short = [&V4[..], &tlv(TLV_CRC32C, &[0; 3])].concat();
        assert_eq!(parse(&header(1, 0x11, &short)), Err(Malformed));
    }
}
