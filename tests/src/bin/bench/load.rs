//! The load: keep-alive HTTP/1.1 connections, each sending one request after the other.
//!
//! Our own, because two cases need what the usual generators cannot do at speed: another header in
//! every request, and a hard failure when a single answer has the wrong status.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use futures_util::future::try_join_all;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
};

use crate::{
    sse::{self, Cut, Pacing, Reader},
    subjects::request,
};

/// What is sent, and what must come back.
#[derive(Clone)]
pub(crate) struct Load {
    /// Whole requests as bytes, sent in turn; one that is never to repeat is there just once.
    pub(crate) requests: Vec<Vec<u8>>,
    /// Status of every answer.
    pub(crate) status: u16,
    /// Every answer has a receipt; otherwise none has.
    pub(crate) has_receipt: bool,
}

/// Streams of events that are asked for.
pub(crate) struct Streams<'a> {
    /// Where they are, before what says how they are cut.
    pub(crate) base: &'a str,
    /// Header lines.
    pub(crate) more: &'a str,
    pub(crate) cut: Cut,
    /// The gate counts their events.
    pub(crate) is_metered: bool,
    /// On each connection.
    pub(crate) count: usize,
    pub(crate) pacing: &'a Pacing,
}

/// What a round took.
pub(crate) struct Round {
    /// Answers received, or events of streams, all as they should be.
    pub(crate) answers: usize,
    /// Time of each answer or chunk, in no order.
    pub(crate) latencies: Vec<Duration>,
}

impl Load {
    /// The same request so many times.
    pub(crate) fn repeated(&self, times: usize) -> Self {
        let requests = self.requests.iter().cycle().take(times).cloned().collect();
        Self { requests, ..*self }
    }
}

/// Open connections to one listener. They outlive a round: what is measured are requests, not
/// connections.
pub(crate) struct Connections(Vec<Connection>);

struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connections {
    /// Opens so many.
    pub(crate) async fn open(to: SocketAddr, count: usize) -> Result<Self> {
        let mut connections = Vec::with_capacity(count);
        for _ in 0..count {
            let stream = TcpStream::connect(to).await.context("connect to Envoy")?;
            stream.set_nodelay(true)?;
            connections.push(Connection {
                stream,
                buffer: Vec::with_capacity(16 * 1024),
            });
        }
        Ok(Self(connections))
    }

    /// Sends each request of `load` once.
    pub(crate) async fn send(&mut self, load: &Load) -> Result<Round> {
        let mut tasks = JoinSet::new();
        let share = load.requests.len().div_ceil(self.0.len()).max(1);
        for requests in load.requests.chunks(share) {
            let Some(mut connection) = self.0.pop() else {
                bail!("more shares than connections");
            };
            let requests = requests.to_vec();
            let (status, has_receipt) = (load.status, load.has_receipt);
            tasks.spawn(async move {
                let latencies = connection.send(&requests, status, has_receipt).await?;
                Ok::<_, anyhow::Error>((connection, latencies))
            });
        }
        let mut latencies = Vec::with_capacity(load.requests.len());
        while let Some(done) = tasks.join_next().await {
            let (connection, some) = done??;
            self.0.push(connection);
            latencies.extend(some);
        }
        Ok(Round {
            answers: latencies.len(),
            latencies,
        })
    }

    /// Reads streams on all connections at once.
    pub(crate) async fn stream(&mut self, streams: &Streams<'_>) -> Result<Round> {
        let cut = streams.cut;
        let connections = self.0.iter_mut().enumerate();
        let lanes = connections.map(|(lane, connection)| async move {
            let path = [streams.base, &sse::path(lane, cut)].concat();
            let request = request(&path, streams.more);
            let mut reader = Reader {
                stream: &mut connection.stream,
                buffer: &mut connection.buffer,
                pacing: streams.pacing,
                lane,
            };
            let mut latencies = vec![];
            for _ in 0..streams.count {
                latencies.extend(reader.read(&request, cut, streams.is_metered).await?);
            }
            Ok::<_, anyhow::Error>(latencies)
        });
        let latencies = try_join_all(lanes).await?.concat();
        Ok(Round {
            answers: latencies.len() * cut.events,
            latencies,
        })
    }
}

impl Connection {
    async fn send(
        &mut self,
        requests: &[Vec<u8>],
        status: u16,
        has_receipt: bool,
    ) -> Result<Vec<Duration>> {
        let mut latencies = Vec::with_capacity(requests.len());
        for request in requests {
            let sent = Instant::now();
            self.stream.write_all(request).await?;
            let head = Head::read(&mut self.stream, &mut self.buffer).await?;
            let body = self.body(&head).await?;
            ensure!(
                head.status == status && head.has_receipt == has_receipt,
                "{}: answered {head:?}, not {status}, receipt: {has_receipt}: {}",
                first_line(request),
                String::from_utf8_lossy(&body)
            );
            latencies.push(sent.elapsed());
        }
        Ok(latencies)
    }

    /// Reads the body of an answer with a `content-length`: nothing of it stays in the buffer.
    async fn body(&mut self, head: &Head) -> Result<Vec<u8>> {
        let length = head.length.context("answer without content-length")?;
        while self.buffer.len() < length {
            fill(&mut self.stream, &mut self.buffer).await?;
        }
        Ok(self.buffer.drain(..length).collect())
    }
}

/// What is looked at in the head of an answer.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) status: u16,
    pub(crate) length: Option<usize>,
    pub(crate) has_receipt: bool,
}

impl Head {
    /// Reads it out of the buffer and from the stream.
    pub(crate) async fn read(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Result<Self> {
        loop {
            if let Some(end) = find(buffer, b"\r\n\r\n") {
                let text = std::str::from_utf8(buffer.get(..end).unwrap_or_default())?;
                let field = |name| text.lines().find_map(|line| line.strip_prefix(name));
                let head = Self {
                    status: text.get(9..12).context("status line")?.parse()?,
                    length: field("content-length: ").map(str::parse).transpose()?,
                    has_receipt: field("payment-receipt: ").is_some(),
                };
                buffer.drain(..end + 4);
                return Ok(head);
            }
            fill(stream, buffer).await?;
        }
    }
}

pub(crate) async fn fill(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Result<()> {
    if stream.read_buf(buffer).await? == 0 {
        bail!("Envoy closed the connection");
    }
    Ok(())
}

pub(crate) fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}

fn first_line(request: &[u8]) -> String {
    String::from_utf8_lossy(request)
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned()
}

/// The middle one; zero of none.
pub(crate) fn median(latencies: &mut [Duration]) -> Duration {
    latencies.sort_unstable();
    latencies
        .get(latencies.len() / 2)
        .copied()
        .unwrap_or_default()
}
