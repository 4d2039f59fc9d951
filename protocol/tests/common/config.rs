//! A plugin configuration in which every key occurs.

use serde_json::{Value, json};

pub(crate) fn full() -> Value {
    json!({
        "sidecar": {
            "cluster": "boltgate",
            "offersCluster": "boltgate_offers",
            "authority": "boltgate",
            "timeout": "3s",
            "tokenEnv": "BOLTGATE_TOKEN"
        },
        "pollInterval": "2s",
        "revocationMaxAge": "60s",
        "unmatched": "deny",
        "otherHosts": "pass",
        "lsatLine": true,
        "l402InvalidStatus": 402,
        "bootstrapWait": "2s",
        "maxWaiting": 5000,
        "clientLimits": {
            "prefixV4": 32,
            "prefixV6": 64,
            "challengesPerMinute": 60,
            "burst": 60,
            "paidFactor": 10
        },
        "payment": {
            "realm": "api.example.com",
            "tls": "required",
            "idleTimeout": "300s",
            "streamHold": "60s"
        },
        "services": [
            {
                "name": "weather",
                "match": [{
                    "hosts": ["api.example.com", "*.example.org"],
                    "path": {"prefix": "/v1/"},
                    "methods": ["GET"],
                    "headers": [
                        {"name": "x-plan", "exact": "gold"},
                        {"name": "x-trace", "prefix": "00-"},
                        {"name": "x-seen", "present": true}
                    ],
                    "capability": "forecast"
                }],
                "price": {"sat": 10},
                "schemes": ["l402", "charge", "session"],
                "session": {"price": {"sat": 2}, "deposit": {"sat": 40}, "unit": "event"},
                "chargeSettled": false,
                "lifetime": "24h",
                "tier": 0,
                "capabilities": ["forecast"],
                "constraints": {"forecast_monthly_volume_sats": "1000"},
                "freePaths": [{"exact": "/v1/health"}],
                "noInvoicePaths": [{"prefix": "/v1/callbacks/"}],
                "corsPassthrough": false
            },
            {
                "name": "maps",
                "match": [{"hosts": ["*"], "path": {"regex": "/maps/[0-9]+"}}],
                "price": {"msat": 1500}
            }
        ]
    })
}
