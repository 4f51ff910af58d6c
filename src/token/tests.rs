//! What makes a token good or bad, one table each. Times are relative to `NOW_MS`.

use super::*;
use crate::testing::keys::Pair;

const SECRET: &str = "a secret of thirty-two bytes, so";
const NOW_S: u64 = 1_800_000_000;
const NOW_MS: u64 = NOW_S * 1000;

fn generated() -> (Tokens, Signer) {
    let (tokens, signer) = keys(&[], || Ok(SECRET.to_owned())).expect("no file is read");
    (tokens, signer.expect("a secret signs"))
}

fn auth(kid: Option<&str>, secret: &str) -> Auth {
    Auth {
        kid: kid.map(str::to_owned),
        key: TokenKey::Secret(secret.to_owned()),
        user_claim: "sub".to_owned(),
        require: BTreeMap::new(),
    }
}

/// A token with this header and these claims, signed with HMAC of `algorithm` whatever the header
/// says.
fn signed(header: &Value, claims: &Value, secret: &str, algorithm: Algorithm) -> String {
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let message = format!("{}.{}", encode(header), encode(claims));
    let key = EncodingKey::from_secret(secret.as_bytes());
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, algorithm);
    format!("{message}.{}", signature.expect("an HMAC"))
}

fn hs256_token(claims: &Value) -> String {
    signed(&json!({"alg": "HS256", "typ": "JWT"}), claims, SECRET, Algorithm::HS256)
}

fn check(claims: &Value) -> Result<Claims, TokenFault> {
    generated().0.check(NOW_MS, &hs256_token(claims))
}

#[test]
fn a_good_token_says_who_and_until_when() {
    let claims = check(&json!({"sub": "u1", "exp": NOW_S + 60})).expect("good");
    assert_eq!(claims.user.as_str(), "u1");
    assert_eq!(claims.expires_ms, NOW_MS + 60_000);
    assert_eq!(claims.device, None);
    let claims = json!({"sub": "u1", "exp": NOW_S + 60, "did": "d1", "iat": NOW_S, "x": [1, {}]});
    assert_eq!(check(&claims).expect("good").device.as_deref(), Some("d1"));
    let claims = json!({"sub": "u1", "exp": NOW_S + 60, "did": null});
    assert_eq!(check(&claims).expect("good").device, None);
}

#[test]
fn the_example_of_rfc_7515_appendix_a_1_is_verified() {
    let key =
        "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";
    let key = URL_SAFE_NO_PAD.decode(key).expect("base64url");
    let token = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkz\
                 ODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.dBjftJeZ4CVP-mB92K27uhbUJU1\
                 p1r_wW1gFWFOEjXk";
    let rules = Rules { user_claim: "iss".to_owned(), require: BTreeMap::new() };
    let key = jsonwebtoken::DecodingKey::from_secret(&key);
    let key = Key { kid: None, check: CheckKey { algorithm: Algorithm::HS256, key }, rules };
    let tokens = Tokens { keys: vec![key] };
    let claims = tokens.check(1_300_819_379_000, token).expect("good then");
    assert_eq!(claims.user.as_str(), "joe");
    assert_eq!(tokens.check(NOW_MS, token), Err(TokenFault::Expired));
}

#[test]
fn times_are_seconds_or_milliseconds() {
    for (exp, expires_ms) in [
        (json!(NOW_S + 60), NOW_MS + 60_000),
        (json!(NOW_MS + 60_000), NOW_MS + 60_000),
        (json!(NOW_S as f64 + 0.5), NOW_MS + 500),
        (json!(NOW_MS as f64 + 7.0), NOW_MS + 7),
        (json!(SECONDS_MAX), SECONDS_MAX * 1000),
        (json!(u64::MAX), u64::MAX),
        (json!(1e300), u64::MAX),
    ] {
        let claims = check(&json!({"sub": "u1", "exp": exp})).expect("good");
        assert_eq!(claims.expires_ms, expires_ms, "{exp}");
    }
}

#[test]
fn expiry_has_a_leeway_to_the_millisecond() {
    let (tokens, _) = generated();
    let token = hs256_token(&json!({"sub": "u1", "exp": NOW_S}));
    assert!(tokens.check(NOW_MS + 29_999, &token).is_ok());
    assert_eq!(tokens.check(NOW_MS + 30_000, &token), Err(TokenFault::Expired));
    let token = hs256_token(&json!({"sub": "u1", "exp": NOW_MS + 5}));
    assert!(tokens.check(NOW_MS + 30_004, &token).is_ok());
    assert_eq!(tokens.check(NOW_MS + 30_005, &token), Err(TokenFault::Expired));
    for past in [json!(0), json!(-1), json!(-1.5), json!(-1e300)] {
        assert_eq!(check(&json!({"sub": "u1", "exp": past})), Err(TokenFault::Expired), "{past}");
    }
}

#[test]
fn not_before_has_the_same_leeway() {
    for (nbf, good) in [
        (json!(NOW_S + 30), true),
        (json!(NOW_S + 31), false),
        (json!(NOW_MS + 30_000), true),
        (json!(NOW_MS + 30_001), false),
        (json!("now"), false),
        (json!(null), false),
    ] {
        let checked = check(&json!({"sub": "u1", "exp": NOW_S + 60, "nbf": nbf}));
        assert_eq!(checked.is_ok(), good, "{nbf}");
        assert!(good || checked == Err(TokenFault::Invalid));
    }
}

#[test]
fn claims_that_say_nobody_or_nothing_are_invalid() {
    let far = NOW_S + 60;
    for claims in [
        json!({"exp": far}),
        json!({"sub": 7, "exp": far}),
        json!({"sub": "", "exp": far}),
        json!({"sub": "a b", "exp": far}),
        json!({"sub": "all", "exp": far}),
        json!({"sub": "x".repeat(65), "exp": far}),
        json!({"sub": "u1"}),
        json!({"sub": "u1", "exp": null}),
        json!({"sub": "u1", "exp": far.to_string()}),
        json!({"sub": "u1", "exp": [far]}),
        json!({"sub": "u1", "exp": far, "did": ""}),
        json!({"sub": "u1", "exp": far, "did": 5}),
        json!({"sub": "u1", "exp": far, "did": "x".repeat(129)}),
        json!(["sub", "u1"]),
        json!("u1"),
    ] {
        assert_eq!(check(&claims), Err(TokenFault::Invalid), "{claims}");
    }
}

#[test]
fn expired_is_told_only_when_everything_else_is_right() {
    for claims in [
        json!({"sub": "a b", "exp": 1}),
        json!({"sub": "u1", "exp": 1, "did": 5}),
        json!({"sub": "u1", "exp": 1, "nbf": NOW_S + 60}),
    ] {
        assert_eq!(check(&claims), Err(TokenFault::Invalid), "{claims}");
    }
    let expired = json!({"sub": "u1", "exp": 1});
    let header = json!({"alg": "HS256"});
    let forged = signed(&header, &expired, "another secret of thirty-two byte", Algorithm::HS256);
    assert_eq!(generated().0.check(NOW_MS, &forged), Err(TokenFault::Invalid));
    assert_eq!(check(&expired), Err(TokenFault::Expired));
}

#[test]
fn only_the_keys_own_algorithm_is_taken() {
    let claims = json!({"sub": "u1", "exp": NOW_S + 60});
    let (tokens, _) = generated();
    for alg in ["none", "None", "NONE", "", "hs256", "HS384", "HS512", "RS256", "ES256", "EdDSA"] {
        let header = json!({"alg": alg});
        let token = signed(&header, &claims, SECRET, Algorithm::HS256);
        assert_eq!(tokens.check(NOW_MS, &token), Err(TokenFault::Invalid), "{alg}");
        let unsigned = format!("{}.", token.rsplit_once('.').expect("three parts").0);
        assert_eq!(tokens.check(NOW_MS, &unsigned), Err(TokenFault::Invalid), "{alg} unsigned");
    }
    // A good HMAC of another length, honestly labelled.
    let header = json!({"alg": "HS512"});
    let token = signed(&header, &claims, SECRET, Algorithm::HS512);
    assert_eq!(tokens.check(NOW_MS, &token), Err(TokenFault::Invalid));
    // No algorithm, and an extension that must be understood.
    for header in [json!({}), json!({"alg": "HS256", "crit": ["b64"], "b64": false}), json!([])] {
        let token = signed(&header, &claims, SECRET, Algorithm::HS256);
        assert_eq!(tokens.check(NOW_MS, &token), Err(TokenFault::Invalid), "{header}");
    }
}

#[test]
fn a_changed_or_cut_token_is_invalid() {
    let (tokens, _) = generated();
    let token = hs256_token(&json!({"sub": "u1", "exp": NOW_S + 60}));
    assert!(tokens.check(NOW_MS, &token).is_ok());
    for length in 0..token.len() {
        assert_eq!(tokens.check(NOW_MS, &token[..length]), Err(TokenFault::Invalid), "{length}");
    }
    for index in 0..token.len() {
        let mut changed = token.clone().into_bytes();
        changed[index] = if changed[index] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).expect("ASCII");
        assert_eq!(tokens.check(NOW_MS, &changed), Err(TokenFault::Invalid), "{index}");
    }
    for odd in [
        format!("{token}."),
        format!(".{token}"),
        format!("{token}="),
        format!(" {token}"),
        format!("{token}\n"),
        token.replace('.', ".."),
        "...".to_owned(),
        "ü.ü.ü".to_owned(),
        "x".repeat(16 << 10),
    ] {
        assert_eq!(tokens.check(NOW_MS, &odd), Err(TokenFault::Invalid), "{odd:?}");
    }
}

#[test]
fn the_user_claim_and_required_values_are_configurable() {
    let mut auth = auth(None, SECRET);
    auth.user_claim = "uid".to_owned();
    auth.require.insert("sub".to_owned(), json!("tk"));
    auth.require.insert("v".to_owned(), json!(2));
    let (tokens, signer) = keys(&[auth], || unreachable!("a key is configured")).expect("inline");
    let far = NOW_S + 60;
    let check =
        |claims: Value| tokens.check(NOW_MS, &hs256_token(&claims)).map(|claims| claims.user);
    let user = check(json!({"uid": "u1", "sub": "tk", "v": 2, "exp": far})).expect("good");
    assert_eq!(user.as_str(), "u1");
    for claims in [
        json!({"uid": "u1", "sub": "rtk", "v": 2, "exp": far}),
        json!({"uid": "u1", "sub": "tk", "v": "2", "exp": far}),
        json!({"uid": "u1", "sub": "tk", "exp": far}),
        json!({"sub": "tk", "v": 2, "exp": far}),
        // A refresh token past its time is still the wrong kind of token.
        json!({"uid": "u1", "sub": "rtk", "v": 2, "exp": 1}),
    ] {
        assert_eq!(check(claims.clone()), Err(TokenFault::Invalid), "{claims}");
    }
    let signer = signer.expect("a secret signs");
    let token = signer.mint(NOW_MS, &grant("u2")).expect("in range");
    assert_eq!(tokens.check(NOW_MS, &token).expect("good").user.as_str(), "u2");
}

#[test]
fn keys_are_chosen_by_kid() {
    let other = "the other secret of thirty-two b";
    let auths = [auth(Some("new"), SECRET), auth(Some("old"), other)];
    let (tokens, signer) = keys(&auths, || unreachable!("keys are configured")).expect("inline");
    let claims = json!({"sub": "u1", "exp": NOW_S + 60});
    let check = |header: Value, secret| {
        let token = signed(&header, &claims, secret, Algorithm::HS256);
        tokens.check(NOW_MS, &token).is_ok()
    };
    assert!(check(json!({"alg": "HS256", "kid": "new"}), SECRET));
    assert!(check(json!({"alg": "HS256", "kid": "old"}), other));
    assert!(!check(json!({"alg": "HS256", "kid": "old"}), SECRET));
    assert!(!check(json!({"alg": "HS256", "kid": "else"}), SECRET));
    assert!(!check(json!({"alg": "HS256"}), SECRET));
    let signer = signer.expect("a secret signs");
    let token = signer.mint(NOW_MS, &grant("u1")).expect("in range");
    assert_eq!(jsonwebtoken::decode_header(&token).expect("a header").kid.as_deref(), Some("new"));
    assert!(tokens.check(NOW_MS, &token).is_ok());
    // A key without `kid` takes tokens that have one.
    let (tokens, _) = generated();
    let token = signed(&json!({"alg": "HS256", "kid": "x"}), &claims, SECRET, Algorithm::HS256);
    assert!(tokens.check(NOW_MS, &token).is_ok());
}

#[test]
fn two_tables_may_share_a_secret() {
    let mut uid = auth(None, SECRET);
    uid.user_claim = "uid".to_owned();
    let (tokens, _) = keys(&[uid, auth(None, SECRET)], || unreachable!("configured")).expect("ok");
    let check =
        |claims: Value| tokens.check(NOW_MS, &hs256_token(&claims)).map(|claims| claims.user);
    assert_eq!(check(json!({"sub": "s", "exp": NOW_S + 60})).expect("good").as_str(), "s");
    assert_eq!(check(json!({"uid": "u", "exp": NOW_S + 60})).expect("good").as_str(), "u");
    assert_eq!(check(json!({"sub": "s", "exp": 1})), Err(TokenFault::Expired));
}

#[test]
fn secrets_come_from_files_too() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("secret");
    let mut auth = auth(None, "");
    auth.key = TokenKey::SecretFile(path.clone());
    let missing = keys(std::slice::from_ref(&auth), || unreachable!("configured"));
    let error = missing.err().expect("there is no file").to_string();
    assert!(error.contains("secret"), "{error}");
    std::fs::write(&path, "short\n").expect("written");
    assert!(keys(std::slice::from_ref(&auth), || unreachable!("configured")).is_err());
    std::fs::write(&path, format!("{SECRET}\n")).expect("written");
    let (tokens, _) = keys(&[auth], || unreachable!("configured")).expect("a secret");
    let token = hs256_token(&json!({"sub": "u1", "exp": NOW_S + 60}));
    assert!(tokens.check(NOW_MS, &token).is_ok());
}

fn grant(user: &str) -> Grant {
    Grant {
        user: UserId::parse(user).expect("a user id"),
        device: None,
        platform: None,
        app: None,
        role: None,
        ttl_s: 60,
        exp_unit: ExpUnit::S,
    }
}

#[test]
fn a_minted_token_says_what_was_granted() {
    let (tokens, signer) = generated();
    let full = Grant {
        device: Some("d1".to_owned()),
        platform: Some("ios".to_owned()),
        app: Some("a".to_owned()),
        role: Some(Role::Service),
        exp_unit: ExpUnit::Ms,
        ..grant("u1")
    };
    let token = signer.mint(NOW_MS + 999, &full).expect("in range");
    let claims: Value = jsonwebtoken::dangerous::insecure_decode_claims(&token).expect("claims");
    assert_eq!(
        claims,
        json!({"sub": "u1", "iat": NOW_MS, "exp": NOW_MS + 60_000, "did": "d1",
               "platform": "ios", "app": "a", "role": "service"})
    );
    let checked = tokens.check(NOW_MS, &token).expect("good");
    assert_eq!(checked.device.as_deref(), Some("d1"));
    assert_eq!(checked.expires_ms, NOW_MS + 60_000);
    let token = signer.mint(NOW_MS, &grant("u1")).expect("in range");
    let claims: Value = jsonwebtoken::dangerous::insecure_decode_claims(&token).expect("claims");
    assert_eq!(claims, json!({"sub": "u1", "iat": NOW_S, "exp": NOW_S + 60}));
}

#[test]
fn grants_out_of_range_are_refused_with_their_field() {
    let (_, signer) = generated();
    let field = |grant: Grant| signer.mint(NOW_MS, &grant).expect_err("out of range").field;
    assert_eq!(field(Grant { device: Some(String::new()), ..grant("u") }), "device");
    assert_eq!(field(Grant { platform: Some("x".repeat(129)), ..grant("u") }), "platform");
    assert_eq!(field(Grant { app: Some(String::new()), ..grant("u") }), "app");
    assert_eq!(field(Grant { ttl_s: 0, ..grant("u") }), "ttl_s");
    assert_eq!(field(Grant { ttl_s: TTL_S_MAX + 1, ..grant("u") }), "ttl_s");
}

#[test]
fn public_keys_and_secrets_stand_beside_each_other() {
    let directory = tempfile::tempdir().expect("a directory");
    let (pem, set) = (directory.path().join("key.pem"), directory.path().join("keys.json"));
    let (ec, ed, other) = (Pair::es256(1), Pair::eddsa(2), Pair::eddsa(3));
    std::fs::write(&pem, ec.pem()).expect("written");
    let jwks = json!({"keys": [ed.jwk(Some("new")), other.jwk(Some("old"))]});
    std::fs::write(&set, jwks.to_string()).expect("written");
    let mut auths = [auth(Some("p"), ""), auth(None, ""), auth(Some("s"), SECRET)];
    auths[0].key = TokenKey::PublicKeyFile(pem.clone());
    auths[1].key = TokenKey::JwksFile(set.clone());
    auths[1].user_claim = "uid".to_owned();
    let (tokens, signer) = keys(&auths, || unreachable!("configured")).expect("good files");
    let sub = json!({"sub": "s1", "exp": NOW_S + 60});
    let uid = json!({"uid": "u1", "exp": NOW_S + 60});
    for (token, user) in [
        (ec.token(Some("p"), &sub), Some("s1")),
        (ec.token(None, &sub), None),
        (ec.token(Some("new"), &sub), None),
        (ed.token(Some("new"), &uid), Some("u1")),
        (ed.token(Some("new"), &sub), None),
        (ed.token(Some("old"), &uid), None),
        (other.token(Some("old"), &uid), Some("u1")),
        (Pair::eddsa(9).token(Some("new"), &uid), None),
        (hs256_token(&sub), None),
    ] {
        let found = tokens.check(NOW_MS, &token).ok().map(|claims| claims.user.to_string());
        assert_eq!(found.as_deref(), user, "{token}");
    }
    // The only secret signs, though it is not the first key.
    let token = signer.expect("there is a secret").mint(NOW_MS, &grant("u2")).expect("in range");
    assert_eq!(tokens.check(NOW_MS, &token).expect("good").user.as_str(), "u2");
    assert!(keys(&auths[..2], || unreachable!("configured")).expect("good files").1.is_none());
    // What is wrong with a file is told with the setting and the file.
    std::fs::write(&set, "{}").expect("written");
    let error = keys(&auths, || unreachable!("configured")).err().expect("no set").to_string();
    assert!(error.starts_with(&format!("auth.jwks_file: {}: is no JWK set", set.display())));
    std::fs::write(&pem, "x".repeat(PEM_BYTES_MAX + 1)).expect("written");
    let error = keys(&auths, || unreachable!("configured")).err().expect("too long").to_string();
    assert!(error.starts_with("auth.public_key_file: "), "{error}");
}
