//! What may stand in the sidecar's place and is not the sidecar.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use anyhow::Context;
use axum::Router;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::StatusCode;
use rand::Rng as _;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

use crate::l402::Token;
use crate::macaroon::{Macaroon, hex};

/// The key that an impostor claims to be that of the seller.
pub const CLAIMED_KEY: [u8; 32] = [0x17; 32];

/// How it behaves.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Behaviour {
    /// Bytes that are no HTTP.
    Garbage,
    /// 500 to everything.
    Fails,
    /// Keys and a deny list in perfect form, but without the sidecar's marker.
    Unmarked,
    /// The marker, and nonsense behind it.
    Nonsense,
    /// The marker and keys: what a gate must believe. The control to the others.
    Believable,
}

/// Listens where the sidecar should, on a thread of its own, until it is dropped.
#[derive(Debug)]
pub struct Impostor {
    stop: CancellationToken,
    asked: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl Impostor {
    /// Takes `address`.
    ///
    /// # Errors
    /// When the address is taken.
    pub fn start(address: SocketAddr, behaviour: Behaviour) -> anyhow::Result<Self> {
        let (stop, asked) = (CancellationToken::new(), Arc::new(AtomicUsize::new(0)));
        let (stopped, count) = (stop.clone(), Arc::clone(&asked));
        let listener = TcpListener::bind(address).context("the sidecar's address is taken")?;
        listener.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let thread = std::thread::spawn(move || {
            runtime.block_on(async move {
                let Ok(listener) = tokio::net::TcpListener::from_std(listener) else {
                    return;
                };
                tokio::select! {
                    () = serve(listener, behaviour, count) => {}
                    () = stopped.cancelled() => {}
                }
            });
        });
        Ok(Self {
            stop,
            asked,
            thread: Some(thread),
        })
    }

    /// How many requests, or connections for [`Behaviour::Garbage`], have come.
    #[must_use]
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

impl Drop for Impostor {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn serve(listener: tokio::net::TcpListener, behaviour: Behaviour, count: Arc<AtomicUsize>) {
    if behaviour == Behaviour::Garbage {
        while let Ok((stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::Relaxed);
            if let Ok(stream) = stream.into_std() {
                babble(stream);
            }
        }
        return;
    }
    let service = Router::new().fallback(move |request: Request| {
        count.fetch_add(1, Ordering::Relaxed);
        std::future::ready(answer(behaviour, request.uri().path()))
    });
    let _ = axum::serve(listener, service).await;
}

fn babble(mut stream: TcpStream) {
    let mut bytes = [0; 4_096];
    let _ = stream.read(&mut bytes);
    rand::rng().fill_bytes(&mut bytes);
    let _ = stream.write_all(&bytes);
}

fn answer(behaviour: Behaviour, path: &str) -> Response {
    let marker = [("x-boltgate-sidecar", "1")];
    let is_bootstrap = path == "/v1/bootstrap";
    match behaviour {
        Behaviour::Unmarked if is_bootstrap => keys().to_string().into_response(),
        Behaviour::Believable if is_bootstrap => (marker, keys().to_string()).into_response(),
        Behaviour::Nonsense => (marker, "{\"keys\":[[[").into_response(),
        Behaviour::Unmarked => "{}".into_response(),
        _ => (StatusCode::INTERNAL_SERVER_ERROR, "no").into_response(),
    }
}

fn keys() -> Value {
    json!({
        "version": "impostor",
        "keys": [{
            "generation": 1, "state": "current",
            "l402": hex(&CLAIMED_KEY), "payment": hex(&CLAIMED_KEY),
        }],
        "revocations": { "full": true, "add": [], "remove": [] },
    })
}

/// A token that is good for `service` if [`CLAIMED_KEY`] is the seller's, and not otherwise.
///
/// # Errors
/// None that can occur: HMAC takes keys of any length.
pub fn token_under_claimed_key(service: &str) -> anyhow::Result<Token> {
    let preimage = [0x42; 32];
    let mut token_id = [0x55; 32];
    token_id[0] = 1;
    let identifier = [&[0, 0], &Sha256::digest(preimage)[..], &token_id].concat();
    let mut mac = Hmac::<Sha256>::new_from_slice(&CLAIMED_KEY)?;
    mac.update(b"l402-root-key/v0\0");
    mac.update(&identifier);
    let root_key = mac.finalize().into_bytes();
    let caveat = format!("services={service}:0");
    Ok(Token {
        macaroon: Macaroon::mint(&root_key, identifier, &[&caveat]).to_base64(),
        preimage: hex(&preimage),
    })
}
