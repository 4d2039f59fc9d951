//! An image registry with one image: the filter as Istio and Envoy Gateway fetch it.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;

use anyhow::ensure;
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use e2e::paths;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;
use sha2::{Digest, Sha256};

/// An image registry with the one image that `deploy/docker/Dockerfile` makes for `plugin`: a
/// gzip tar with `plugin.wasm` as its only layer.
pub(crate) struct Registry {
    pub(crate) address: SocketAddr,
    pub(crate) module_sha256: String,
}

struct Image {
    manifest: Vec<u8>,
    blobs: BTreeMap<String, Vec<u8>>,
}

impl Registry {
    /// Serves `module` on a free port of loopback.
    pub(crate) async fn start(module: &[u8]) -> anyhow::Result<Self> {
        let folder = paths::fresh_folder("envoy-gateway-image")?;
        std::fs::write(folder.join("plugin.wasm"), module)?;
        let tar = Command::new("tar")
            .args(["-cf", "-", "plugin.wasm"])
            .current_dir(&folder)
            .output()?;
        ensure!(
            tar.status.success(),
            "tar: {}",
            String::from_utf8_lossy(&tar.stderr)
        );
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(&tar.stdout)?;
        let layer = gzip.finish()?;
        let config = json!({
            "architecture": "amd64", "os": "linux", "config": {},
            "rootfs": { "type": "layers", "diff_ids": [digest(&tar.stdout)] },
        });
        let config = config.to_string().into_bytes();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "size": config.len(), "digest": digest(&config),
            },
            "layers": [{
                "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                "size": layer.len(), "digest": digest(&layer),
            }],
        });
        let image = Image {
            manifest: manifest.to_string().into_bytes(),
            blobs: [config, layer]
                .into_iter()
                .map(|blob| (digest(&blob), blob))
                .collect(),
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let router = Router::new().fallback(serve).with_state(Arc::new(image));
        // On a thread of its own: the test blocks while the translator pulls.
        let listener = listener.into_std()?;
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(async {
                axum::serve(tokio::net::TcpListener::from_std(listener)?, router).await
            })
        });
        let module_sha256 = digest(module).trim_start_matches("sha256:").to_owned();
        Ok(Self {
            address,
            module_sha256,
        })
    }

    /// Name of the image, without a tag.
    pub(crate) fn image(&self) -> String {
        format!("{}/boltgate/filter", self.address)
    }
}

async fn serve(State(image): State<Arc<Image>>, request: Request) -> Response {
    let path = request.uri().path();
    let (status, kind, body) = match path.rsplit('/').next() {
        _ if path == "/v2/" => (200, "application/json", b"{}".to_vec()),
        Some(_) if path.contains("/manifests/") => (
            200,
            "application/vnd.oci.image.manifest.v1+json",
            image.manifest.clone(),
        ),
        Some(blob) if image.blobs.contains_key(blob) => {
            (200, "application/octet-stream", image.blobs[blob].clone())
        }
        _ => (404, "text/plain", Vec::new()),
    };
    let length = body.len();
    let digest = digest(&body);
    let body = if request.method() == http::Method::HEAD {
        Body::empty()
    } else {
        body.into()
    };
    Response::builder()
        .status(status)
        .header("content-type", kind)
        .header("content-length", length)
        .header("docker-content-digest", digest)
        .body(body)
        .unwrap_or_default()
}

fn digest(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}
