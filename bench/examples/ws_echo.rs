//! A WebSocket echo server of the core's framing and permessage-deflate, on a thread per
//! connection: what the Autobahn|Testsuite is run against (`make autobahn`), since no dialect of
//! the server echoes. Prints its address, and serves until it is killed.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::{env, thread};

use ringpost_core::ws::WsError;
use ringpost_core::ws::deflate::{Deflater, Inflater};
use ringpost_core::ws::extensions::{Window, negotiate};
use ringpost_core::ws::frame::{Opcode, Role, begin_frame, encode_close, encode_pong, end_frame};
use ringpost_core::ws::handshake::{parse, refusal, switching_protocols};
use ringpost_core::ws::message::{Event, Receiver};

const READ_BYTES: usize = 64 << 10;

fn main() -> io::Result<()> {
    let address = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:0".to_owned());
    let listener = TcpListener::bind(address)?;
    println!("{}", listener.local_addr()?);
    for stream in listener.incoming() {
        let stream = stream?;
        thread::spawn(move || {
            if let Err(error) = serve(stream) {
                eprintln!("ws_echo: {error}");
            }
        });
    }
    Ok(())
}

/// Serves one connection to its end.
fn serve(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut unread = Vec::new();
    let (head, window) = loop {
        if read(&mut stream, &mut unread)? == 0 {
            return Ok(());
        }
        let mut answer = Vec::new();
        match parse(&unread) {
            Ok(None) => {}
            Ok(Some((request, len))) => {
                let agreement = negotiate(&request);
                let extensions = agreement.map(|agreement| agreement.answer());
                switching_protocols(request.key, None, extensions.as_deref(), &mut answer);
                stream.write_all(&answer)?;
                break (len, agreement.map(|agreement| agreement.window()));
            }
            Err(wrong) => {
                refusal(wrong, &mut answer);
                return stream.write_all(&answer);
            }
        }
    };
    unread.drain(..head);
    Echo::new(window).run(&mut stream, unread)
}

/// A connection behind its handshake.
struct Echo {
    receiver: Receiver,
    window: Option<Window>,
    inflater: Inflater,
    deflater: Deflater,
    out: Vec<u8>,
}

impl Echo {
    fn new(window: Option<Window>) -> Echo {
        let receiver = Receiver::new(Role::Server);
        let receiver = if window.is_some() { receiver.with_deflate() } else { receiver };
        let (inflater, deflater) = (Inflater::default(), Deflater::new(1));
        Echo { receiver, window, inflater, deflater, out: Vec::new() }
    }

    fn run(mut self, stream: &mut TcpStream, mut unread: Vec<u8>) -> io::Result<()> {
        loop {
            let open = match self.take(&mut unread) {
                Ok(open) => open,
                Err(error) => {
                    encode_close(Some(error.close_code()), "", &mut self.out);
                    false
                }
            };
            stream.write_all(&self.out)?;
            self.out.clear();
            if !open {
                break;
            }
            if read(stream, &mut unread)? == 0 {
                return Ok(());
            }
        }
        // The peer reads all of it before the connection ends: what it still sends must not make
        // the kernel reset it.
        stream.shutdown(Shutdown::Write)?;
        while read(stream, &mut unread)? > 0 {
            unread.clear();
        }
        Ok(())
    }

    /// Answers what has come; `false`: the last of it was a close frame.
    fn take(&mut self, unread: &mut Vec<u8>) -> Result<bool, WsError> {
        let mut at = 0;
        loop {
            let (consumed, event) = self.receiver.step(&mut unread[at..])?;
            at += consumed;
            match event {
                None => break,
                Some(Event::Message { binary, bytes }) => {
                    echo(binary, &bytes, self.window, &mut self.deflater, &mut self.out);
                }
                Some(Event::Compressed { binary, bytes }) => {
                    let bytes = self.inflater.inflate(binary, &bytes)?;
                    echo(binary, bytes, self.window, &mut self.deflater, &mut self.out);
                }
                Some(Event::Ping(payload)) => encode_pong(payload, &mut self.out),
                Some(Event::Pong(_)) => {}
                Some(Event::Close { code, .. }) => {
                    encode_close(code, "", &mut self.out);
                    return Ok(false);
                }
                Some(Event::Blocked) => unreachable!("only when data may not be taken"),
            }
        }
        unread.drain(..at);
        Ok(true)
    }
}

/// Appends a message as a frame, compressed where that is agreed on and shorter.
fn echo(
    binary: bool,
    bytes: &[u8],
    window: Option<Window>,
    deflater: &mut Deflater,
    out: &mut Vec<u8>,
) {
    let mut arena = Vec::with_capacity(2 * bytes.len() + 32);
    let start = begin_frame(&mut arena);
    arena.extend_from_slice(bytes);
    let opcode = if binary { Opcode::Binary } else { Opcode::Text };
    let plain = end_frame(&mut arena, start, opcode);
    let compressed = window.and_then(|window| {
        let window = window.for_message(bytes.len());
        deflater.compress(&mut arena, plain.clone(), window)
    });
    let range = compressed.unwrap_or(plain);
    out.extend_from_slice(&arena[range.start as usize..range.end as usize]);
}

/// Reads what there is, behind what is there.
fn read(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<usize> {
    let len = buffer.len();
    buffer.resize(len + READ_BYTES, 0);
    let count = stream.read(&mut buffer[len..]);
    buffer.truncate(len + *count.as_ref().unwrap_or(&0));
    count
}
