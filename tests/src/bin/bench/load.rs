//! The load: keep-alive HTTP/1.1 connections, each sending one request after the other.
//!
//! Our own, because two cases need what the usual generators cannot do at speed: another header in
//! every request, and a hard failure when a single answer has the wrong status.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
};

/// What is sent, and what must come back.
#[derive(Clone)]
pub(crate) struct Load {
    /// Whole requests as bytes, sent in turn; one that is never to repeat is there just once.
    pub(crate) requests: Vec<Vec<u8>>,
    /// Status of every answer.
    pub(crate) status: u16,
}

/// What a round took.
pub(crate) struct Round {
    /// Answers received, all with the right status.
    pub(crate) answers: usize,
    /// Time of each, in no order.
    pub(crate) latencies: Vec<Duration>,
}

impl Load {
    /// The same request so many times.
    pub(crate) fn repeated(&self, times: usize) -> Self {
        let requests = self.requests.iter().cycle().take(times).cloned().collect();
        Self {
            requests,
            status: self.status,
        }
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
            let status = load.status;
            tasks.spawn(async move {
                let latencies = connection.send(&requests, status).await?;
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
}

impl Connection {
    async fn send(&mut self, requests: &[Vec<u8>], status: u16) -> Result<Vec<Duration>> {
        let mut latencies = Vec::with_capacity(requests.len());
        for request in requests {
            let sent = Instant::now();
            self.stream.write_all(request).await?;
            let found = answer(&mut self.stream, &mut self.buffer).await?;
            ensure!(
                found == status,
                "answered {found}, not {status}: {}",
                first_line(request)
            );
            latencies.push(sent.elapsed());
        }
        Ok(latencies)
    }
}

/// Reads one answer with a `content-length`, and leaves nothing of it in the buffer.
async fn answer(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Result<u16> {
    loop {
        if let Some(head) = find(buffer, b"\r\n\r\n") {
            let text = std::str::from_utf8(buffer.get(..head).unwrap_or_default())?;
            let status = text.get(9..12).context("status line")?.parse()?;
            let length: usize = text
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "))
                .context("answer without content-length")?
                .parse()?;
            let end = head + 4 + length;
            while buffer.len() < end {
                fill(stream, buffer).await?;
            }
            buffer.drain(..end);
            return Ok(status);
        }
        fill(stream, buffer).await?;
    }
}

async fn fill(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Result<()> {
    if stream.read_buf(buffer).await? == 0 {
        bail!("Envoy closed the connection");
    }
    Ok(())
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
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
