//! The least that it takes to see HTTP/2 on the wire: one request on a new connection, and the
//! frames of the answer one by one.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, ensure};
use httlib_hpack::Decoder;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// One HEADERS or DATA frame of the answer.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    /// Header fields in order; nothing if it is a DATA frame.
    pub(crate) fields: Option<Vec<(String, String)>>,
    /// The stream ends with it.
    pub(crate) ends: bool,
}

impl Frame {
    /// All values of one field, in order.
    pub(crate) fn values(&self, name: &str) -> Vec<&str> {
        let fields = self.fields.iter().flatten();
        fields
            .filter(|(have, _)| have == name)
            .map(|(_, value)| value.as_str())
            .collect()
    }
}

/// Sends one request and gives the frames of its answer, up to the end of the stream.
pub(crate) fn exchange(
    server: SocketAddr,
    fields: &[(&str, &str)],
    body: &[u8],
) -> anyhow::Result<Vec<Frame>> {
    let mut stream = TcpStream::connect(server)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")?;
    write(&mut stream, SETTINGS, 0, 0, &[])?;
    let mut block = Vec::new();
    for (name, value) in fields {
        // A literal with a new name, not indexed (RFC 7541, section 6.2.2).
        block.push(0);
        for text in [name, value] {
            block.push(
                u8::try_from(text.len())
                    .ok()
                    .filter(|length| *length < 127)
                    .context("a longer literal needs a longer length")?,
            );
            block.extend_from_slice(text.as_bytes());
        }
    }
    let flags = if body.is_empty() {
        END_HEADERS | END_STREAM
    } else {
        END_HEADERS
    };
    write(&mut stream, HEADERS, flags, 1, &block)?;
    if !body.is_empty() {
        write(&mut stream, DATA, END_STREAM, 1, body)?;
    }
    let mut decoder = Decoder::default();
    let mut frames: Vec<Frame> = Vec::new();
    while !frames.last().is_some_and(|frame| frame.ends) {
        let (kind, flags, id, payload) = read(&mut stream)?;
        match (kind, id) {
            (SETTINGS, 0) if flags & ACK == 0 => write(&mut stream, SETTINGS, ACK, 0, &[])?,
            (HEADERS, 1) => {
                ensure!(
                    flags & END_HEADERS != 0,
                    "the header block has a continuation"
                );
                frames.push(Frame {
                    fields: Some(decode(&mut decoder, payload)?),
                    ends: flags & END_STREAM != 0,
                });
            }
            (DATA, 1) => frames.push(Frame {
                fields: None,
                ends: flags & END_STREAM != 0,
            }),
            (RESET, 1) | (GOAWAY | CONTINUATION, _) => {
                anyhow::bail!("frame of kind {kind} after {frames:?}: {payload:?}")
            }
            _ => {}
        }
    }
    Ok(frames)
}

fn decode(decoder: &mut Decoder<'_>, mut block: Vec<u8>) -> anyhow::Result<Vec<(String, String)>> {
    let mut fields = Vec::new();
    decoder
        .decode(&mut block, &mut fields)
        .map_err(|error| anyhow::anyhow!("not a header block: {error:?}"))?;
    fields
        .into_iter()
        .map(|(name, value, _)| Ok((String::from_utf8(name)?, String::from_utf8(value)?)))
        .collect()
}

fn write(
    stream: &mut TcpStream,
    kind: u8,
    flags: u8,
    id: u32,
    payload: &[u8],
) -> anyhow::Result<()> {
    let length = u32::try_from(payload.len())?.to_be_bytes();
    let mut frame = length.get(1..).unwrap_or_default().to_vec();
    frame.extend([kind, flags]);
    frame.extend(id.to_be_bytes());
    frame.extend(payload);
    Ok(stream.write_all(&frame)?)
}

fn read(stream: &mut TcpStream) -> anyhow::Result<(u8, u8, u32, Vec<u8>)> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).context("no further frame")?;
    let [l0, l1, l2, kind, flags, id @ ..] = head;
    let mut payload = vec![0; usize::try_from(u32::from_be_bytes([0, l0, l1, l2]))?];
    stream.read_exact(&mut payload)?;
    Ok((kind, flags, u32::from_be_bytes(id) & 0x7fff_ffff, payload))
}
