//! Streams of events as a language model sends them, in lock step: the upstream sends on when the
//! client has what came before.
//!
//! So an event is a chunk of its own wherever it passes, or many are one, as the case says, and
//! Envoy is never idle for want of events. Left alone, Envoy would read as many at once as it finds.

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Path, State},
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
    routing::get,
};
use futures_util::stream;
use serde_json::Value;
use tokio::{io::AsyncWriteExt as _, net::TcpStream, sync::Semaphore};

use crate::load::{Head, fill, find};

const EVENT: &str = r#"data: {"id":"chatcmpl-8aGq","object":"chat.completion.chunk","created":1694268190,"model":"example-1","choices":[{"index":0,"delta":{"content":" weather"},"finish_reason":null}]}"#;
const DONE: &str = "data: [DONE]\n\n";
const RECEIPT: &str = "event: payment-receipt\ndata: ";
/// Streams at the same time, at most.
const LANES: usize = 64;

/// How a stream is cut.
#[derive(Clone, Copy)]
pub(crate) struct Cut {
    /// Sent one after the other.
    pub(crate) chunks: usize,
    /// Events in each.
    pub(crate) events: usize,
}

impl Cut {
    /// Events with data, `[DONE]` apart.
    pub(crate) const fn units(self) -> usize {
        self.chunks * self.events
    }

    fn text(self) -> String {
        let mut text = [EVENT, "\n\n"].concat().repeat(self.units());
        text.push_str(DONE);
        text
    }
}

/// What each lane of the upstream may send: one for each chunk. Upstream and clients have it.
#[derive(Clone)]
pub(crate) struct Pacing(Arc<[Semaphore]>);

impl Pacing {
    pub(crate) fn new() -> Self {
        Self((0..LANES).map(|_| Semaphore::new(0)).collect())
    }

    /// Lets the upstream send so many chunks.
    pub(crate) fn allow(&self, lane: usize, chunks: usize) {
        if let Some(semaphore) = self.0.get(lane) {
            semaphore.add_permits(chunks);
        }
    }
}

/// Path of a stream below the one at which [`routes`] are.
pub(crate) fn path(lane: usize, cut: Cut) -> String {
    format!("{lane}/{}/{}", cut.chunks, cut.events)
}

/// The upstream's part: below `/stream/` and `/stream/free/`, and below `/short/`.
pub(crate) fn routes(pacing: Pacing) -> Router {
    Router::new()
        .route("/stream/{lane}/{chunks}/{events}", get(events))
        .route("/stream/free/{lane}/{chunks}/{events}", get(events))
        .route("/short/{lane}/{chunks}/{events}", get(events))
        .with_state(pacing)
}

async fn events(
    State(pacing): State<Pacing>,
    Path((lane, chunks, events)): Path<(usize, usize, usize)>,
) -> Response {
    let event = Bytes::from([EVENT, "\n\n"].concat());
    // Each event is sent as a chunk of HTTP; those that may go at once go in one piece.
    let pieces = stream::unfold((pacing, chunks, 0), move |(pacing, left, sent)| {
        let event = event.clone();
        async move {
            if sent > 0 && sent < events {
                return Some((Ok(event), (pacing, left, sent + 1)));
            }
            let lane = pacing.0.get(lane)?;
            lane.acquire().await.ok()?.forget();
            match left {
                0 => None,
                _ => Some((Ok::<_, Infallible>(event), (pacing, left - 1, 1))),
            }
        }
    });
    let done = stream::once(async { Ok(Bytes::from(DONE)) });
    let body = Body::from_stream(futures_util::StreamExt::chain(pieces, done));
    ([(CONTENT_TYPE, "text/event-stream")], body).into_response()
}

/// One stream after the other on one connection.
pub(crate) struct Reader<'a> {
    pub(crate) stream: &'a mut TcpStream,
    pub(crate) buffer: &'a mut Vec<u8>,
    pub(crate) pacing: &'a Pacing,
    pub(crate) lane: usize,
}

impl Reader<'_> {
    /// Asks for a stream and reads it to its end; the time of each chunk. What has come must be
    /// what was sent and, if it is metered, a receipt for each of its events.
    pub(crate) async fn read(
        &mut self,
        request: &[u8],
        cut: Cut,
        is_metered: bool,
    ) -> Result<Vec<Duration>> {
        self.stream.write_all(request).await?;
        self.read_head(is_metered).await?;
        let mut latencies = Vec::with_capacity(cut.chunks);
        let mut text = Vec::new();
        for chunk in 1..=cut.chunks {
            let sent = Instant::now();
            self.pacing.allow(self.lane, 1);
            while text.len() < chunk * cut.events * (EVENT.len() + 2) {
                ensure!(self.piece(&mut text).await?, "the stream has ended early");
            }
            latencies.push(sent.elapsed());
        }
        // The end is a chunk, too.
        self.pacing.allow(self.lane, 1);
        while self.piece(&mut text).await? {}
        check(&String::from_utf8(text)?, cut, is_metered)?;
        Ok(latencies)
    }

    async fn read_head(&mut self, is_metered: bool) -> Result<()> {
        let head = Head::read(self.stream, self.buffer).await?;
        ensure!(head.status == 200, "a stream is answered {}", head.status);
        ensure!(
            head.length.is_none() && head.has_receipt == is_metered,
            "a stream of another kind: {head:?}"
        );
        Ok(())
    }

    /// Reads one chunk of HTTP into `text`; `false` if that was the last.
    async fn piece(&mut self, text: &mut Vec<u8>) -> Result<bool> {
        loop {
            if let Some(line) = find(self.buffer, b"\r\n") {
                let size = std::str::from_utf8(self.buffer.get(..line).unwrap_or_default())?;
                let size = usize::from_str_radix(size, 16).context("size of a chunk")?;
                let start = line + 2;
                while self.buffer.len() < start + size + 2 {
                    fill(self.stream, self.buffer).await?;
                }
                text.extend_from_slice(self.buffer.get(start..start + size).unwrap_or_default());
                self.buffer.drain(..start + size + 2);
                return Ok(size > 0);
            }
            fill(self.stream, self.buffer).await?;
        }
    }
}

/// All has come, and the receipt is for all of it.
fn check(text: &str, cut: Cut, is_metered: bool) -> Result<()> {
    let mut text = text.to_owned();
    if is_metered {
        let start = text.find(RECEIPT).context("a stream without a receipt")?;
        let end = text.get(start..).and_then(|rest| rest.find("\n\n"));
        let end = start + end.context("an unfinished receipt")?;
        let receipt = text.get(start + RECEIPT.len()..end).unwrap_or_default();
        let receipt: Value = serde_json::from_str(receipt)?;
        let units = receipt.get("units").and_then(Value::as_u64);
        ensure!(units == Some(cut.units() as u64), "receipt: {receipt}");
        text.replace_range(start..end + 2, "");
    }
    ensure!(text == cut.text(), "a stream was changed");
    Ok(())
}
