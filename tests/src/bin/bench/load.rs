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

    /// Sends each of `requests` once over `connections` connections.
    pub(crate) async fn run(&self, to: SocketAddr, connections: usize) -> Result<Round> {
        let mut tasks = JoinSet::new();
        let share = self.requests.len().div_ceil(connections).max(1);
        for requests in self.requests.chunks(share) {
            let requests = requests.to_vec();
            let status = self.status;
            tasks.spawn(async move { connection(to, &requests, status).await });
        }
        let mut latencies = Vec::with_capacity(self.requests.len());
        while let Some(done) = tasks.join_next().await {
            latencies.extend(done??);
        }
        Ok(Round {
            answers: latencies.len(),
            latencies,
        })
    }
}

async fn connection(to: SocketAddr, requests: &[Vec<u8>], status: u16) -> Result<Vec<Duration>> {
    let mut stream = TcpStream::connect(to).await.context("connect to Envoy")?;
    stream.set_nodelay(true)?;
    let mut buffer = Vec::with_capacity(16 * 1024);
    let mut latencies = Vec::with_capacity(requests.len());
    for request in requests {
        let sent = Instant::now();
        stream.write_all(request).await?;
        let found = answer(&mut stream, &mut buffer).await?;
        ensure!(
            found == status,
            "answered {found}, not {status}: {}",
            first_line(request)
        );
        latencies.push(sent.elapsed());
    }
    Ok(latencies)
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
