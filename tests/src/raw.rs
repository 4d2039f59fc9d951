//! Raw bytes: what no HTTP library would send, and an upstream that keeps what arrives as it came.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Sends `bytes` on a new connection and gives all that comes back until the server closes it or
/// `quiet` passes without a byte.
///
/// # Errors
/// When no connection can be made.
pub fn exchange(server: SocketAddr, bytes: &[u8], quiet: Duration) -> anyhow::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server)?;
    stream.set_read_timeout(Some(quiet))?;
    stream.set_write_timeout(Some(Duration::from_secs(10)))?;
    // A server may answer and close before it has read all: what it said is still of interest.
    let _ = stream.write_all(bytes);
    Ok(read_all(&mut stream))
}

fn read_all(stream: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    let mut buffer = [0_u8; 65536];
    while let Ok(read) = stream.read(&mut buffer) {
        if read == 0 {
            break;
        }
        all.extend_from_slice(buffer.get(..read).unwrap_or_default());
    }
    all
}

/// Status code of an HTTP/1 answer.
#[must_use]
pub fn status(answer: &[u8]) -> Option<u16> {
    let line = answer.split(|byte| *byte == b'\r').next()?;
    let mut words = std::str::from_utf8(line).ok()?.split(' ');
    words
        .next()
        .filter(|version| version.starts_with("HTTP/1."))?;
    words.next()?.parse().ok()
}

/// One part of a raw HTTP/2 request.
#[derive(Clone, Debug)]
pub enum Part<'a> {
    /// A block of header or trailer fields, as bytes that no library would let through.
    Fields(&'a [(&'a [u8], &'a [u8])]),
    /// Data.
    Data(&'a [u8]),
}

/// Sends one HTTP/2 request on a new connection, the stream ending with its last part, and waits
/// until the answer ends, the stream is reset, the connection is closed or `quiet` passes.
///
/// # Errors
/// When no connection can be made, or a field is too long for this little code.
pub fn h2_exchange(server: SocketAddr, parts: &[Part<'_>], quiet: Duration) -> anyhow::Result<()> {
    const END_STREAM: u8 = 1;
    const END_HEADERS: u8 = 4;
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    frame(&mut bytes, 4, 0, 0, &[])?;
    for (number, part) in (1..).zip(parts) {
        let end = if number == parts.len() { END_STREAM } else { 0 };
        match part {
            Part::Data(data) => frame(&mut bytes, 0, end, 1, data)?,
            Part::Fields(fields) => {
                let block = literals(fields)?;
                frame(&mut bytes, 1, end | END_HEADERS, 1, &block)?;
            }
        }
    }
    let mut stream = TcpStream::connect(server)?;
    stream.set_read_timeout(Some(quiet))?;
    let _ = stream.write_all(&bytes);
    let mut head = [0; 9];
    while stream.read_exact(&mut head).is_ok() {
        let [l0, l1, l2, kind, flags, id @ ..] = head;
        let mut payload = vec![0; usize::try_from(u32::from_be_bytes([0, l0, l1, l2]))?];
        let is_ours = u32::from_be_bytes(id) == 1;
        let is_last = matches!(kind, 0 | 1) && flags & END_STREAM != 0 || kind == 3;
        if stream.read_exact(&mut payload).is_err() || kind == 7 || is_ours && is_last {
            break;
        }
    }
    Ok(())
}

/// Literals with new names, not indexed and not compressed (RFC 7541, section 6.2.2).
fn literals(fields: &[(&[u8], &[u8])]) -> anyhow::Result<Vec<u8>> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            match u8::try_from(text.len()) {
                Ok(length) if length < 127 => block.push(length),
                _ => {
                    let more = text.len() - 127;
                    anyhow::ensure!(more < 1 << 14, "a field is too long");
                    let low = u8::try_from(more & 127)?;
                    block.extend([127, low | 128, u8::try_from(more >> 7)?]);
                }
            }
            block.extend_from_slice(text);
        }
    }
    Ok(block)
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, id: u32, payload: &[u8]) -> anyhow::Result<()> {
    let length = u32::try_from(payload.len())?.to_be_bytes();
    out.extend_from_slice(length.get(1..).unwrap_or_default());
    out.extend([kind, flags]);
    out.extend(id.to_be_bytes());
    out.extend_from_slice(payload);
    Ok(())
}

/// An HTTP/1 upstream that answers 200 to whatever comes and keeps the bytes of each connection.
#[derive(Debug)]
pub struct RawUpstream {
    address: SocketAddr,
    connections: Arc<Mutex<Vec<Vec<u8>>>>,
    stop: Arc<AtomicBool>,
}

impl RawUpstream {
    /// Starts it on a free port.
    ///
    /// # Errors
    /// When it cannot listen.
    pub fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let connections = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (kept, stopped) = (Arc::clone(&connections), Arc::clone(&stop));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let kept = Arc::clone(&kept);
                std::thread::spawn(move || serve(stream, &kept));
            }
        });
        Ok(Self {
            address,
            connections,
            stop,
        })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Bytes that have arrived, by connection.
    #[must_use]
    pub fn received(&self) -> Vec<Vec<u8>> {
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Forgets what has arrived.
    pub fn clear(&self) {
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }
}

impl Drop for RawUpstream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(mut stream: TcpStream, kept: &Mutex<Vec<Vec<u8>>>) {
    let mut slot = None;
    let mut buffer = [0_u8; 65536];
    let start = Instant::now();
    let _ = stream.set_read_timeout(Some(Duration::from_secs(30)));
    while let Ok(read) = stream.read(&mut buffer) {
        if read == 0 || start.elapsed() > Duration::from_secs(120) {
            return;
        }
        let bytes = buffer.get(..read).unwrap_or_default();
        let mut all = kept.lock().unwrap_or_else(PoisonError::into_inner);
        let index = *slot.get_or_insert_with(|| {
            all.push(Vec::new());
            all.len() - 1
        });
        if let Some(connection) = all.get_mut(index) {
            connection.extend_from_slice(bytes);
        }
        drop(all);
        if bytes.windows(4).any(|end| end == b"\r\n\r\n") {
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok";
            let _ = stream.write_all(answer);
            let _ = stream.shutdown(Shutdown::Write);
        }
    }
}
