//! A small HTTP/1.1 client for the CLI: one plain request, one answer.

use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

const DEADLINE: Duration = Duration::from_secs(10);
const MOST_BODY: usize = 1024 * 1024;

/// Status and body of an answer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// The body, as far as it is text.
    pub body: String,
}

/// Sends `body` as JSON if there is one (`POST`), or nothing (`GET`).
///
/// # Errors
/// In words, when there is no whole answer within ten seconds.
pub async fn request(url: &str, body: Option<String>) -> Result<Answer, String> {
    let work = tokio::time::timeout(DEADLINE, exchange(url, body)).await;
    work.map_err(|_| format!("{url}: no answer in time"))?
        .map_err(|error| format!("{url}: {error}"))
}

async fn exchange(
    url: &str,
    body: Option<String>,
) -> Result<Answer, Box<dyn std::error::Error + Send + Sync>> {
    let uri: http::Uri = url.parse()?;
    let authority = uri.authority().ok_or("no host")?;
    if uri.scheme_str() != Some("http") {
        return Err("only http:// is understood".into());
    }
    let address = format!(
        "{}:{}",
        authority.host(),
        authority.port_u16().unwrap_or(80)
    );
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let method = if body.is_some() {
        http::Method::POST
    } else {
        http::Method::GET
    };
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    let request = http::Request::builder()
        .method(method)
        .uri(target)
        .header(http::header::HOST, authority.as_str())
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body.unwrap_or_default())))?;
    let answer = sender.send_request(request).await?;
    let status = answer.status().as_u16();
    let body = Limited::new(answer.into_body(), MOST_BODY)
        .collect()
        .await?
        .to_bytes();
    Ok(Answer {
        status,
        body: String::from_utf8_lossy(&body).into_owned(),
    })
}
