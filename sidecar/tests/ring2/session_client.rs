//! What a filter says for a buyer of a session.

use std::time::{Duration, SystemTime};

use bitcoin::hashes::{Hash as _, sha256};
use bitcoin::secp256k1::{Secp256k1, SecretKey};
use hyper::StatusCode;
use lightning_invoice::{Currency, InvoiceBuilder, PaymentSecret};
use protocol::amount::Sat;
use protocol::api::charge::{ChargeOffer, ChargeOffers, ChargeOffersRequest};
use protocol::api::session::{
    CLOSE_PATH, CloseAnswer, CloseRequest, CloseResult, DEPOSIT_OFFERS_PATH, OPEN_PATH, OpenAnswer,
    OpenRequest, OpenResult, SessionCall, TopUpRequest,
};
use protocol::encoding::{base64url, hex_encode};
use protocol::hash::{PaymentHash, sha256 as digest};
use protocol::lease::{AccountId, Answer as Lease, HolderId, LEASES_PATH, LeasesAnswer};
use protocol::lease::{LeasesRequest, Report};
use serde::Serialize;

use crate::support::{Answer, Api, Sidecar, VM};

/// Satoshis of one deposit.
pub(crate) const DEPOSIT: u64 = 100;

pub(crate) async fn post(api: Api, path: &str, body: &impl Serialize) -> Answer {
    let body = serde_json::to_vec(body).unwrap();
    api.send(api.request("POST", path, body)).await
}

/// As [`post`], by [`Api::insist`].
pub(crate) async fn insist(api: Api, path: &str, body: &impl Serialize) -> Answer {
    api.insist(path, serde_json::to_vec(body).unwrap()).await
}

pub(crate) fn wish() -> ChargeOffersRequest {
    ChargeOffersRequest {
        vm: VM.to_owned(),
        request_id: VM.to_owned(),
        count: 1,
        service: "weather".to_owned(),
        amount: Sat::new(DEPOSIT).unwrap(),
        client: None,
    }
}

pub(crate) async fn offer(api: Api) -> ChargeOffer {
    let answer = insist(api, DEPOSIT_OFFERS_PATH, &wish()).await;
    assert_eq!(answer.status, StatusCode::OK, "{:?}", answer.body);
    let mut offers: ChargeOffers = serde_json::from_slice(&answer.body).unwrap();
    offers.offers.remove(0)
}

/// Of the form that filters make: the generation first.
pub(crate) fn challenge_id(seed: &[u8]) -> String {
    let mut bytes = [0; 33];
    bytes[1..].copy_from_slice(&digest(seed));
    base64url(&bytes)
}

/// A call with this offer's challenge that says `what`.
pub(crate) fn call_of(offer: &ChargeOffer, what: u8) -> SessionCall {
    let hash = offer.payment_hash;
    SessionCall {
        challenge_id: challenge_id(&hash.0),
        fingerprint: hex_encode(&digest(&[&hash.0[..], &[what]].concat())),
        payment_hash: hash,
        expires: offer.expires,
        is_expired: false,
    }
}

/// An invoice of a node that is not the sidecar's, made now.
pub(crate) fn return_invoice(n: u8, msat: Option<u64>, expiry_seconds: u64) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = Duration::from_secs(now.unwrap().as_secs());
    let builder = InvoiceBuilder::new(Currency::Regtest)
        .description("refund".to_owned())
        .payment_hash(sha256::Hash::hash(&[n, 1, 2, 3]))
        .payment_secret(PaymentSecret([n; 32]))
        .duration_since_epoch(now)
        .min_final_cltv_expiry_delta(80)
        .expiry_time(Duration::from_secs(expiry_seconds));
    let builder = match msat {
        Some(msat) => builder.amount_milli_satoshis(msat),
        None => builder,
    };
    let (curve, key) = (Secp256k1::new(), SecretKey::from_slice(&[9; 32]).unwrap());
    builder
        .build_signed(|hash| curve.sign_ecdsa_recoverable(hash, &key))
        .unwrap()
        .to_string()
}

/// A report that asks for nothing.
pub(crate) fn report(session: PaymentHash, holder: u8) -> Report {
    Report {
        account: AccountId(session.0),
        holder: HolderId([holder; 16]),
        used: 0,
        returned: 0,
        want: 0,
        need: 0,
        price: 2,
        release: false,
    }
}

/// Opens with a return invoice named by `n`, and asks for the first request's price.
pub(crate) fn open_of(offer: &ChargeOffer, n: u8) -> OpenRequest {
    OpenRequest {
        vm: VM.to_owned(),
        call: call_of(offer, n),
        service: "weather".to_owned(),
        price: Sat::new(2).unwrap(),
        idle_timeout_seconds: 300,
        return_invoice: return_invoice(n, None, 86_400),
        lease: Report {
            need: 2,
            ..report(offer.payment_hash, 1)
        },
    }
}

pub(crate) async fn opened(api: Api, request: &OpenRequest) -> OpenAnswer {
    let answer = insist(api, OPEN_PATH, request).await;
    assert_eq!(answer.status, StatusCode::OK, "{:?}", answer.body);
    serde_json::from_slice(&answer.body).unwrap()
}

pub(crate) fn top_up_of(offer: &ChargeOffer, session_id: PaymentHash) -> TopUpRequest {
    TopUpRequest {
        vm: VM.to_owned(),
        call: call_of(offer, 0),
        session_id,
        service: String::new(),
    }
}

pub(crate) async fn say(api: Api, report: Report) -> Lease {
    let request = LeasesRequest {
        vm: VM.to_owned(),
        reports: vec![report],
    };
    let answer = insist(api, LEASES_PATH, &request).await;
    assert_eq!(answer.status, StatusCode::OK, "{:?}", answer.body);
    let mut answers: LeasesAnswer = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(answers.answers.len(), 1);
    answers.answers.remove(0)
}

/// Who paid a deposit.
pub(crate) struct Buyer {
    pub(crate) offer: ChargeOffer,
    pub(crate) id: PaymentHash,
}

impl Buyer {
    /// Has paid, and not yet presented it.
    pub(crate) async fn new(sidecar: &Sidecar) -> Self {
        let offer = offer(sidecar.api).await;
        sidecar.pay(&offer.invoice).await.unwrap();
        Self {
            id: offer.payment_hash,
            offer,
        }
    }

    /// Has a session; the lease that opened it is over.
    pub(crate) async fn opened(sidecar: &Sidecar) -> Self {
        let buyer = Self::new(sidecar).await;
        let mut request = open_of(&buyer.offer, 1);
        request.lease.holder = HolderId([255; 16]);
        request.lease.release = true;
        let answer = opened(sidecar.api, &request).await;
        assert_eq!(answer.result, OpenResult::Opened);
        buyer
    }

    /// A close with a fresh challenge, of which nobody paid the invoice.
    pub(crate) fn close(&self, challenge: u8) -> CloseRequest {
        CloseRequest {
            vm: VM.to_owned(),
            call: SessionCall {
                challenge_id: challenge_id(&[challenge]),
                fingerprint: hex_encode(&digest(&[&self.id.0[..], &[challenge, 99]].concat())),
                payment_hash: PaymentHash([challenge; 32]),
                ..call_of(&self.offer, 0)
            },
            session_id: self.id,
            lease: None,
        }
    }

    pub(crate) async fn closed(&self, api: Api, request: &CloseRequest) -> CloseAnswer {
        let answer = post(api, CLOSE_PATH, request).await;
        assert_eq!(answer.status, StatusCode::OK, "{:?}", answer.body);
        serde_json::from_slice(&answer.body).unwrap()
    }
}

/// What a buyer sees of it.
pub(crate) fn closes(answer: &CloseAnswer) -> (CloseResult, u64, &str) {
    (
        answer.result,
        answer.refund_sats,
        answer.refund_status.as_str(),
    )
}
