//! A gRPC client and a gRPC server (tonic) with the gate between them: the demand for payment
//! reaches a client as a status it can read, on unary and on streaming calls, and what it buys is
//! taken from every metadata key in which gRPC clients send tokens (spec/l402 2.3, R-L402-30 to 32).

#[path = "grpc/upstream.rs"]
mod upstream;

#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::use_self,
    reason = "generated"
)]
mod pb {
    tonic::include_proto!("weather.v1");
}

use anyhow::Context;
use e2e::gate::Gate;
use e2e::l402::{self, Challenge, Token};
use e2e::macaroon::hex;
use futures_util::stream;
use pb::Place;
use pb::weather_client::WeatherClient;
use serde_json::{Value, json};
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue, MetadataMap};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use upstream::{GrpcUpstream, HOURS};

const FORECAST: &str = "/weather.v1.Weather/Forecast";
/// Metadata keys of the specification for a token that holds its preimage.
const KEYS: [&str; 3] = ["token", "macaroon", "grpc-metadata-macaroon"];

/// The gate in front of a gRPC server, and a client that speaks to it.
struct Setting {
    gate: Gate,
    upstream: GrpcUpstream,
    client: WeatherClient<Channel>,
}

fn sells_grpc(plugin: &mut Value) {
    if let Some(path) = plugin.pointer_mut("/services/0/match/0/path") {
        *path = json!({ "prefix": "/weather.v1.Weather/" });
    }
    if let Some(paths) = plugin.pointer_mut("/services/0/freePaths") {
        *paths = json!([]);
    }
}

impl Setting {
    async fn start(name: &str, with_sidecar: bool) -> anyhow::Result<Self> {
        let upstream = GrpcUpstream::start().await?;
        let address = upstream.address();
        let mut builder = Gate::dev(name)
            .plugin(sells_grpc)
            .envoy(move |config| config.grpc_upstream = address);
        if !with_sidecar {
            builder = builder.without_sidecar();
        }
        let gate = builder.start().await?;
        let endpoint = Endpoint::from_shared(format!("http://{}", gate.envoy.address()))?;
        let client = WeatherClient::new(endpoint.connect().await?);
        Ok(Self {
            gate,
            upstream,
            client,
        })
    }

    /// No call has reached the server, by its own count and by Envoy's.
    async fn assert_untouched(&self) -> anyhow::Result<()> {
        assert_eq!(self.upstream.calls().len(), 0);
        let sent = self
            .gate
            .envoy
            .stat("cluster.grpc_upstream.upstream_rq_total")
            .await?;
        assert_eq!(sent, 0);
        assert_eq!(self.gate.upstream.count(), 0);
        Ok(())
    }

    async fn buy(&mut self) -> anyhow::Result<Token> {
        let refused = self.client.forecast(place(&[])?).await;
        let challenge = demand(&refused.err().context("served without payment")?)?;
        let preimage = self.gate.wallet.pay(&challenge.invoice).await?;
        Ok(challenge.paid(&preimage))
    }
}

/// A call's argument with `metadata`.
fn place(metadata: &[(&str, &str)]) -> anyhow::Result<Request<Place>> {
    with(
        metadata,
        Place {
            name: "Reykjavik".to_owned(),
        },
    )
}

fn with<T>(metadata: &[(&str, &str)], message: T) -> anyhow::Result<Request<T>> {
    let mut request = Request::new(message);
    for (key, value) in metadata {
        let key = AsciiMetadataKey::from_bytes(key.as_bytes())?;
        request
            .metadata_mut()
            .append(key, AsciiMetadataValue::try_from(*value)?);
    }
    Ok(request)
}

/// The demand for payment in a status: asserts its form as Aperture's client asks for it, and
/// gives the challenge after a careful buyer's checks.
fn demand(status: &Status) -> anyhow::Result<Challenge> {
    assert_eq!(status.code(), Code::Internal, "{status:?}");
    assert_eq!(status.message(), "payment required");
    let challenges = l402::challenges(&status.metadata().clone().into_headers());
    let schemes: Vec<&str> = challenges.iter().map(|one| one.scheme.as_str()).collect();
    assert_eq!(schemes, ["LSAT", "L402"], "{status:?}");
    let challenge = challenges.into_iter().next_back().context("no challenge")?;
    assert_eq!(challenge.check()?, 10_000);
    Ok(challenge)
}

/// A macaroon with its preimage in it, in hexadecimal.
fn metadata_form(token: &Token) -> anyhow::Result<String> {
    let macaroon = token
        .decoded()?
        .attenuate(&format!("preimage={}", token.preimage));
    Ok(hex(&macaroon.to_bytes()))
}

fn text<'a>(metadata: &'a MetadataMap, key: &str) -> &'a str {
    metadata
        .get(key)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}

/// What the server got of the newest call: who paid, and nothing to pay with.
fn assert_cleaned(upstream: &GrpcUpstream) -> anyhow::Result<()> {
    let metadata = upstream.last()?;
    assert_eq!(text(&metadata, "x-boltgate-service"), "weather");
    assert_eq!(text(&metadata, "x-boltgate-scheme"), "l402");
    assert_eq!(text(&metadata, "x-boltgate-token-id").len(), 64);
    for key in ["authorization", KEYS[0], KEYS[1], KEYS[2]] {
        assert!(!metadata.contains_key(key), "{key} reached the upstream");
    }
    Ok(())
}

#[tokio::test]
async fn a_unary_call_is_told_to_pay_and_served_when_it_has() -> anyhow::Result<()> {
    let mut setting = Setting::start("grpc-unary", true).await?;
    let refused = setting.client.forecast(place(&[])?).await;
    let challenge = demand(&refused.err().context("served without payment")?)?;
    setting.assert_untouched().await?;

    let preimage = setting.gate.wallet.pay(&challenge.invoice).await?;
    let token = challenge.paid(&preimage);
    for _ in 0..2 {
        let paid = place(&[("authorization", &token.authorization())])?;
        let sky = setting.client.forecast(paid).await?.into_inner();
        assert_eq!((sky.place.as_str(), sky.celsius), ("Reykjavik", 4));
        assert_cleaned(&setting.upstream)?;
    }
    assert_eq!(setting.upstream.calls().len(), 2);
    Ok(())
}

#[tokio::test]
async fn a_server_stream_is_told_to_pay_and_served_when_it_has() -> anyhow::Result<()> {
    let mut setting = Setting::start("grpc-watch", true).await?;
    let refused = setting.client.watch(place(&[])?).await;
    let challenge = demand(&refused.err().context("streamed without payment")?)?;
    setting.assert_untouched().await?;

    let preimage = setting.gate.wallet.pay(&challenge.invoice).await?;
    let token = challenge.paid(&preimage);
    let paid = place(&[("authorization", &token.authorization())])?;
    let mut skies = setting.client.watch(paid).await?.into_inner();
    let mut hours = Vec::new();
    while let Some(sky) = skies.message().await? {
        hours.push(sky.celsius);
    }
    assert_eq!(hours, (0..HOURS).collect::<Vec<_>>());
    assert_cleaned(&setting.upstream)
}

#[tokio::test]
async fn a_call_whose_client_keeps_sending_is_told_to_pay_at_once() -> anyhow::Result<()> {
    let mut setting = Setting::start("grpc-tour", true).await?;
    // A side that stays open: the demand must not wait for its end.
    let (places, open) = tokio::sync::mpsc::channel(4);
    let refused = setting
        .client
        .tour(with(&[], ReceiverStream::new(open))?)
        .await;
    let challenge = demand(&refused.err().context("streamed without payment")?)?;
    drop(places);
    setting.assert_untouched().await?;

    let preimage = setting.gate.wallet.pay(&challenge.invoice).await?;
    let token = challenge.paid(&preimage);
    let (places, open) = tokio::sync::mpsc::channel(4);
    let paid = with(
        &[("authorization", &token.authorization())],
        ReceiverStream::new(open),
    )?;
    let mut skies = setting.client.tour(paid).await?.into_inner();
    for name in ["Akureyri", "Husavik"] {
        places
            .send(Place {
                name: name.to_owned(),
            })
            .await?;
        let sky = skies.message().await?.context("the stream has ended")?;
        assert_eq!(sky.place, name);
    }
    drop(places);
    assert!(skies.message().await?.is_none());
    assert_cleaned(&setting.upstream)
}

#[tokio::test]
async fn a_token_with_its_preimage_is_taken_from_every_metadata_key() -> anyhow::Result<()> {
    let mut setting = Setting::start("grpc-metadata", true).await?;
    let token = setting.buy().await?;
    let form = metadata_form(&token)?;
    for key in KEYS {
        let sky = setting
            .client
            .forecast(place(&[(key, &form)])?)
            .await
            .with_context(|| key)?;
        assert_eq!(sky.get_ref().place, "Reykjavik");
        assert_cleaned(&setting.upstream)?;

        let mut skies = setting
            .client
            .watch(place(&[(key, &form)])?)
            .await?
            .into_inner();
        let mut count = 0;
        while skies.message().await?.is_some() {
            count += 1;
        }
        assert_eq!(count, HOURS);
        assert_cleaned(&setting.upstream)?;
    }
    // Both at once, as the specification asks of clients.
    let both = [("authorization", token.authorization()), ("macaroon", form)];
    let both = both.each_ref().map(|(key, value)| (*key, value.as_str()));
    setting.client.forecast(place(&both)?).await?;
    assert_cleaned(&setting.upstream)
}

#[tokio::test]
async fn a_wrong_token_is_told_to_pay_again() -> anyhow::Result<()> {
    let mut setting = Setting::start("grpc-wrong", true).await?;
    let token = setting.buy().await?;
    let macaroon = token.decoded()?;
    let wrong_preimage = "00".repeat(32);
    let without_preimage = hex(&macaroon.to_bytes());
    let foreign_preimage = hex(&macaroon
        .attenuate(&format!("preimage={wrong_preimage}"))
        .to_bytes());
    let mut forged = macaroon.attenuate(&format!("preimage={}", token.preimage));
    forged.signature[0] ^= 1;
    let forged = hex(&forged.to_bytes());
    let authorization = format!("L402 {}:{wrong_preimage}", token.macaroon);
    let mut cases = vec![("authorization", authorization)];
    for key in KEYS {
        for value in [&without_preimage, &foreign_preimage, &forged] {
            cases.push((key, value.clone()));
        }
    }
    let mut seen = std::collections::BTreeSet::new();
    for (key, value) in &cases {
        let refused = setting.client.forecast(place(&[(key, value)])?).await;
        let status = refused
            .err()
            .with_context(|| format!("served: {key}: {value}"))?;
        let challenge = demand(&status)?;
        assert!(seen.insert(challenge.invoice), "the same invoice again");
        let refused = setting.client.watch(place(&[(key, value)])?).await;
        demand(
            &refused
                .err()
                .with_context(|| format!("streamed: {key}: {value}"))?,
        )?;
    }
    setting.assert_untouched().await?;

    // The token itself is unharmed by what was tried with it.
    let paid = place(&[("authorization", &token.authorization())])?;
    setting.client.forecast(paid).await?;
    Ok(())
}

#[tokio::test]
async fn grpc_web_is_answered_like_any_other_http_request() -> anyhow::Result<()> {
    let setting = Setting::start("grpc-web", true).await?;
    let empty_message = vec![0_u8; 5];
    for http in [setting.gate.http(), setting.gate.h2()] {
        for kind in [
            "application/grpc-web",
            "application/grpc-web+proto",
            "application/grpc-web-text",
        ] {
            let request = http
                .post(FORECAST, empty_message.clone())
                .header("content-type", kind);
            let answer = request.send().await?;
            assert_eq!(answer.status, 402, "{kind}: {answer:?}");
            assert_eq!(answer.challenges().len(), 2, "{kind}");
            assert!(
                !answer.headers.contains_key("grpc-status"),
                "{kind}: {answer:?}"
            );
            assert_eq!(answer.header("content-type"), "application/problem+json");
        }
    }
    setting.assert_untouched().await
}

#[tokio::test]
async fn without_a_sidecar_calls_are_unavailable_and_never_told_to_pay() -> anyhow::Result<()> {
    let mut setting = Setting::start("grpc-no-sidecar", false).await?;
    let garbage = "0201".repeat(40);
    for metadata in [&[][..], &[("macaroon", garbage.as_str())]] {
        let unary = setting.client.forecast(place(metadata)?).await.err();
        let watch = setting.client.watch(place(metadata)?).await.err();
        let tour = with(metadata, stream::iter([Place::default()]))?;
        let tour = setting.client.tour(tour).await.err();
        for refused in [unary, watch, tour] {
            let status = refused.context("served without a sidecar")?;
            assert_eq!(status.code(), Code::Unavailable, "{status:?}");
            assert!(
                !status.metadata().contains_key("www-authenticate"),
                "{status:?}"
            );
            assert!(
                !text(status.metadata(), "retry-after").is_empty(),
                "{status:?}"
            );
        }
    }
    setting.assert_untouched().await
}
