//! An upstream that cuts its streams exactly as a test says, by HTTP/1.1 and HTTP/2 with prior
//! knowledge on one port.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use httlib_hpack::{Decoder, Encoder};

/// One thing that the upstream does.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// Sends these bytes: one chunk, or one DATA frame (several if it is large).
    Send(Vec<u8>),
    /// The same as the last frame of the stream; by HTTP/1.1 together with the last chunk.
    SendAndEnd(Vec<u8>),
    /// Ends the stream.
    End,
    /// Ends it by trailers.
    Trailers,
    /// Does nothing for so many milliseconds.
    Pause(u64),
    /// Breaks off.
    Reset,
    /// Leaves it open.
    Stay,
}

/// The answer to requests of one path.
#[derive(Clone, Debug, Default)]
pub(crate) struct Script {
    /// Headers beside the status.
    pub(crate) headers: Vec<(&'static str, &'static str)>,
    /// In this order.
    pub(crate) acts: Vec<Act>,
}

#[derive(Debug, Default)]
struct Shared {
    scripts: BTreeMap<String, Script>,
    /// Headers of the requests that came, by path.
    seen: Vec<(String, BTreeMap<String, String>)>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Upstream {
    address: SocketAddr,
    shared: Arc<Mutex<Shared>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Upstream {
    pub(crate) fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Mutex::new(Shared::default()));
        let theirs = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let shared = Arc::clone(&theirs);
                std::thread::spawn(move || serve(stream, &shared));
            }
        });
        Ok(Self { address, shared })
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Says what requests of that path are answered with: events, unless the headers say otherwise.
    pub(crate) fn set(&self, path: &str, headers: &[(&'static str, &'static str)], acts: Vec<Act>) {
        let mut headers = headers.to_vec();
        if headers.iter().all(|(name, _)| *name != "content-type") {
            headers.push(("content-type", "text/event-stream"));
        }
        let script = Script { headers, acts };
        lock(&self.shared).scripts.insert(path.to_owned(), script);
    }

    /// A header of the newest request of that path.
    pub(crate) fn header(&self, path: &str, name: &str) -> anyhow::Result<String> {
        let shared = lock(&self.shared);
        let (_, headers) = shared
            .seen
            .iter()
            .rev()
            .find(|(seen, _)| seen == path)
            .context("no such request")?;
        Ok(headers.get(name).cloned().unwrap_or_default())
    }
}

fn script(shared: &Mutex<Shared>, path: &str, headers: BTreeMap<String, String>) -> Script {
    let mut shared = lock(shared);
    shared.seen.push((path.to_owned(), headers));
    shared.scripts.get(path).cloned().unwrap_or_default()
}

fn serve(mut stream: TcpStream, shared: &Arc<Mutex<Shared>>) {
    let _ = stream.set_nodelay(true);
    let mut start = [0; 3];
    if stream.peek(&mut start).is_err() {
        return;
    }
    let _ = if &start == b"PRI" {
        serve_h2(stream, shared)
    } else {
        serve_h1(&mut stream, shared)
    };
}

// ---- HTTP/1.1 ----

fn serve_h1(stream: &mut TcpStream, shared: &Mutex<Shared>) -> std::io::Result<()> {
    let mut head = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        while !head.windows(4).any(|end| end == b"\r\n\r\n") {
            let read = stream.read(&mut buffer)?;
            if read == 0 {
                return Ok(());
            }
            head.extend_from_slice(buffer.get(..read).unwrap_or_default());
        }
        let text = String::from_utf8_lossy(&head).into_owned();
        head.clear();
        let mut lines = text.lines();
        let path = lines.next().unwrap_or_default();
        let path = path.split(' ').nth(1).unwrap_or_default().to_owned();
        let headers = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect();
        let script = script(shared, &path, headers);
        let mut answer = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n".to_owned();
        for (name, value) in &script.headers {
            answer.push_str(&format!("{name}: {value}\r\n"));
        }
        stream.write_all((answer + "\r\n").as_bytes())?;
        for act in script.acts {
            match act {
                Act::Send(bytes) => stream.write_all(&chunk(&bytes))?,
                Act::SendAndEnd(bytes) => {
                    stream.write_all(&[&chunk(&bytes)[..], b"0\r\n\r\n"].concat())?;
                }
                Act::End => stream.write_all(b"0\r\n\r\n")?,
                Act::Trailers => stream.write_all(b"0\r\nx-late: 1\r\n\r\n")?,
                Act::Pause(milliseconds) => pause(milliseconds),
                Act::Reset => return stream.shutdown(Shutdown::Both),
                Act::Stay => {
                    while stream.read(&mut buffer)? > 0 {}
                    return Ok(());
                }
            }
        }
    }
}

fn chunk(bytes: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

fn pause(milliseconds: u64) {
    std::thread::sleep(Duration::from_millis(milliseconds));
}

// ---- HTTP/2 ----

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const INITIAL_WINDOW_SIZE: [u8; 2] = [0, 4];
const LARGEST_FRAME: usize = 16_384;

/// What may be sent.
struct Windows {
    initial: i64,
    connection: i64,
    streams: BTreeMap<u32, i64>,
    is_over: bool,
}

struct Connection {
    writer: Mutex<TcpStream>,
    windows: Mutex<Windows>,
    moved: Condvar,
}

impl Connection {
    fn frame(&self, kind: u8, flags: u8, id: u32, payload: &[u8]) -> std::io::Result<()> {
        let length = u32::try_from(payload.len())
            .unwrap_or_default()
            .to_be_bytes();
        let mut frame = length.get(1..).unwrap_or_default().to_vec();
        frame.extend([kind, flags]);
        frame.extend(id.to_be_bytes());
        frame.extend_from_slice(payload);
        lock(&self.writer).write_all(&frame)
    }

    /// Takes from both windows, at most as much; an error when the stream is over.
    fn take(&self, id: u32, most: usize) -> std::io::Result<usize> {
        let mut windows = lock(&self.windows);
        loop {
            let gone = || std::io::Error::from(ErrorKind::ConnectionReset);
            let stream = *windows.streams.get(&id).ok_or_else(gone)?;
            if windows.is_over {
                return Err(gone());
            }
            let free = stream.min(windows.connection);
            let taken = usize::try_from(free).unwrap_or_default().min(most);
            if taken > 0 || most == 0 {
                let count = i64::try_from(taken).unwrap_or_default();
                windows.connection -= count;
                windows.streams.insert(id, stream - count);
                return Ok(taken);
            }
            windows = self
                .moved
                .wait(windows)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn data(&self, id: u32, mut bytes: &[u8], end: bool) -> std::io::Result<()> {
        loop {
            let taken = self.take(id, bytes.len().min(LARGEST_FRAME))?;
            let (now, later) = bytes.split_at(taken);
            bytes = later;
            let flags = if end && bytes.is_empty() {
                END_STREAM
            } else {
                0
            };
            self.frame(DATA, flags, id, now)?;
            if bytes.is_empty() {
                return Ok(());
            }
        }
    }

    fn headers(&self, id: u32, fields: &[(&str, &str)], flags: u8) -> std::io::Result<()> {
        let mut encoder = Encoder::default();
        let mut block = Vec::new();
        for (name, value) in fields {
            let field = (name.as_bytes().to_vec(), value.as_bytes().to_vec(), 0);
            encoder
                .encode(field, &mut block)
                .map_err(|error| std::io::Error::other(format!("{error:?}")))?;
        }
        self.frame(HEADERS, flags | END_HEADERS, id, &block)
    }

    fn play(&self, id: u32, script: Script) -> std::io::Result<()> {
        let mut fields = vec![(":status", "200")];
        fields.extend(script.headers);
        self.headers(id, &fields, 0)?;
        for act in script.acts {
            match act {
                Act::Send(bytes) => self.data(id, &bytes, false)?,
                Act::SendAndEnd(bytes) => self.data(id, &bytes, true)?,
                Act::End => self.data(id, &[], true)?,
                Act::Trailers => self.headers(id, &[("x-late", "1")], END_STREAM)?,
                Act::Pause(milliseconds) => pause(milliseconds),
                Act::Reset => self.frame(RST_STREAM, 0, id, &2_u32.to_be_bytes())?,
                Act::Stay => return Ok(()),
            }
        }
        Ok(())
    }
}

fn serve_h2(mut stream: TcpStream, shared: &Arc<Mutex<Shared>>) -> std::io::Result<()> {
    let connection = Arc::new(Connection {
        writer: Mutex::new(stream.try_clone()?),
        windows: Mutex::new(Windows {
            initial: 65_535,
            connection: 65_535,
            streams: BTreeMap::new(),
            is_over: false,
        }),
        moved: Condvar::new(),
    });
    let mut decoder = Decoder::default();
    stream.read_exact(&mut [0; 24])?;
    connection.frame(SETTINGS, 0, 0, &[])?;
    let ended = read_h2(&mut stream, &connection, &mut decoder, shared);
    lock(&connection.windows).is_over = true;
    connection.moved.notify_all();
    ended
}

fn read_h2(
    stream: &mut TcpStream,
    connection: &Arc<Connection>,
    decoder: &mut Decoder<'_>,
    shared: &Arc<Mutex<Shared>>,
) -> std::io::Result<()> {
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head)?;
        let [l0, l1, l2, kind, flags, id @ ..] = head;
        let id = u32::from_be_bytes(id) & 0x7fff_ffff;
        let length = usize::try_from(u32::from_be_bytes([0, l0, l1, l2])).unwrap_or_default();
        let mut payload = vec![0; length];
        stream.read_exact(&mut payload)?;
        match kind {
            SETTINGS if flags & ACK == 0 => {
                let mut windows = lock(&connection.windows);
                for setting in payload.chunks_exact(6) {
                    if let Some(value) = setting.strip_prefix(&INITIAL_WINDOW_SIZE) {
                        let value = value.try_into().map_or(0, u32::from_be_bytes);
                        let change = i64::from(value) - windows.initial;
                        windows.initial += change;
                        windows.streams.values_mut().for_each(|one| *one += change);
                    }
                }
                drop(windows);
                connection.moved.notify_all();
                connection.frame(SETTINGS, ACK, 0, &[])?;
            }
            PING if flags & ACK == 0 => connection.frame(PING, ACK, 0, &payload)?,
            WINDOW_UPDATE => {
                let more = payload.as_slice().try_into().map_or(0, u32::from_be_bytes);
                let mut windows = lock(&connection.windows);
                if id == 0 {
                    windows.connection += i64::from(more);
                } else if let Some(window) = windows.streams.get_mut(&id) {
                    *window += i64::from(more);
                }
                drop(windows);
                connection.moved.notify_all();
            }
            RST_STREAM => {
                lock(&connection.windows).streams.remove(&id);
                connection.moved.notify_all();
            }
            GOAWAY => return Ok(()),
            HEADERS => {
                let mut fields = Vec::new();
                decoder
                    .decode(&mut payload, &mut fields)
                    .map_err(|error| std::io::Error::other(format!("{error:?}")))?;
                let headers: BTreeMap<String, String> = fields
                    .into_iter()
                    .map(|(name, value, _)| {
                        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
                        (text(name), text(value))
                    })
                    .collect();
                let path = headers.get(":path").cloned().unwrap_or_default();
                let script = script(shared, &path, headers);
                let mut windows = lock(&connection.windows);
                let initial = windows.initial;
                windows.streams.insert(id, initial);
                drop(windows);
                let connection = Arc::clone(connection);
                std::thread::spawn(move || connection.play(id, script));
            }
            _ => {}
        }
    }
}
