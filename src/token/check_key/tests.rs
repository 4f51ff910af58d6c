//! Keys good and bad, in the forms in which they come.

use rsa::pkcs8::{EncodePublicKey, LineEnding};
use serde_json::json;

use super::super::{Key, Rules, Tokens};
use super::*;
use crate::testing::keys::{Pair, rsa_of};
use ringpost_core::admit::{TokenCheck, TokenFault};

const NOW_MS: u64 = 1_800_000_000_000;

fn claims() -> Value {
    json!({"sub": "u1", "exp": NOW_MS / 1000 + 60})
}

/// Checks tokens with these keys.
fn tokens(keys: Vec<(Option<String>, CheckKey)>) -> Tokens {
    let rules = Rules { user_claim: "sub".to_owned(), require: Default::default() };
    let key = |(kid, check)| Key { kid, check, rules: rules.clone() };
    Tokens { keys: keys.into_iter().map(key).collect() }
}

fn takes(tokens: &Tokens, token: &str) -> bool {
    match tokens.check(NOW_MS, token) {
        Ok(claims) => claims.user.as_str() == "u1",
        Err(fault) => {
            assert_eq!(fault, TokenFault::Invalid);
            false
        }
    }
}

fn pairs() -> [Pair; 3] {
    [Pair::rs256(), Pair::es256(1), Pair::eddsa(1)]
}

#[test]
fn a_pem_key_takes_its_own_algorithm_and_no_other() {
    for (index, pair) in pairs().iter().enumerate() {
        let pem = pair.pem();
        // Remarks around it are usual.
        let key = from_pem(&format!("# of the identity provider\n{pem}")).expect(&pem);
        assert_eq!(key.algorithm, pair.algorithm());
        let tokens = tokens(vec![(None, key)]);
        let good = pair.token(None, &claims());
        assert!(takes(&tokens, &good), "{good}");
        assert!(takes(&tokens, &pair.token(Some("any"), &claims())));
        for (other, signer) in pairs().iter().enumerate() {
            assert_eq!(takes(&tokens, &signer.token(None, &claims())), index == other);
        }
        for alg in ["none", "None", "", "HS256", "RS384", "RS512", "PS256", "ES384", "Ed25519"] {
            let token = pair.sign(&json!({"alg": alg}), &claims());
            assert!(!takes(&tokens, &token), "{alg}");
            let unsigned = format!("{}.", token.rsplit_once('.').expect("three parts").0);
            assert!(!takes(&tokens, &unsigned), "{alg}, unsigned");
        }
        // The classic: the public key, which everybody knows, as the secret of an HMAC.
        for secret in [pem.as_bytes(), pem.trim_end().as_bytes()] {
            let header = jsonwebtoken::Header::new(Algorithm::HS256);
            let secret = jsonwebtoken::EncodingKey::from_secret(secret);
            let token = jsonwebtoken::encode(&header, &claims(), &secret).expect("an HMAC");
            assert!(!takes(&tokens, &token));
        }
        // A flipped bit, in each part.
        for at in [3, good.find('.').expect("a dot") + 3, good.len() - 3] {
            let mut changed = good.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            assert!(!takes(&tokens, &String::from_utf8(changed).expect("ASCII")), "{at}");
        }
    }
}

#[test]
fn the_examples_of_rfc_7515_are_verified() {
    // Appendix A.2 and A.3; the claims name no `sub`.
    let rules = Rules { user_claim: "iss".to_owned(), require: Default::default() };
    let rsa = json!({"kty": "RSA", "e": "AQAB", "n":
        "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0\
         Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXnd\
         S5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJ\
         H7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"});
    let ec = json!({"kty": "EC", "crv": "P-256",
        "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"});
    let payload = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc1\
                   9yb290Ijp0cnVlfQ";
    let signed = [
        (
            rsa,
            format!(
                "eyJhbGciOiJSUzI1NiJ9.{payload}.\
            cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8\
            W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPv\
            kSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1p\
            hCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw"
            ),
        ),
        (
            ec,
            format!(
                "eyJhbGciOiJFUzI1NiJ9.{payload}.\
            DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q"
            ),
        ),
    ];
    for (jwk, token) in signed {
        let set = json!({"keys": [jwk]}).to_string();
        let [(None, check)] = &from_jwks(&set).expect("a good key")[..] else { panic!("one key") };
        let key = Key { kid: None, check: check.clone(), rules: rules.clone() };
        let tokens = Tokens { keys: vec![key] };
        let claims = tokens.check(1_300_819_379_000, &token).expect("good then");
        assert_eq!(claims.user.as_str(), "joe");
        assert_eq!(tokens.check(NOW_MS, &token), Err(TokenFault::Expired));
    }
}

#[test]
fn a_set_gives_each_key_its_kid() {
    let [rsa, ec, ed] = pairs();
    let other = Pair::eddsa(9);
    let mut members: Vec<Value> = vec![
        rsa.jwk(Some("r")),
        ec.jwk(Some("e")),
        ed.jwk(Some("d")),
        // Without one it takes any.
        Pair::es256(3).jwk(None),
        // Of kinds and for uses that are passed over.
        json!({"kty": "EC", "crv": "P-384", "x": "AA", "y": "AA"}),
        json!({"kty": "OKP", "crv": "X25519", "x": "AA"}),
        json!({"kty": "LWE", "kid": "of the future", "n": "?"}),
    ];
    for (name, value) in
        [("use", json!("enc")), ("alg", json!("ES384")), ("key_ops", json!(["sign"]))]
    {
        let mut member = other.jwk(Some("not for this"));
        member[name] = value;
        members.push(member);
    }
    members[0]["alg"] = json!("RS256");
    members[0]["use"] = json!("sig");
    members[0]["x5t"] = json!("certificates are not looked at");
    members[2]["alg"] = json!("Ed25519");
    members[2]["key_ops"] = json!(["verify"]);
    let keys = from_jwks(&json!({"keys": members, "more": 1}).to_string()).expect("good keys");
    assert_eq!(keys.len(), 4);
    let tokens = tokens(keys);
    for (pair, kid, good) in [
        (&rsa, Some("r"), true),
        (&rsa, Some("e"), false),
        (&rsa, None, false),
        (&ec, Some("e"), true),
        (&ed, Some("d"), true),
        (&ed, Some("D"), false),
        (&Pair::es256(3), None, true),
        (&Pair::es256(3), Some("x"), true),
        (&other, Some("not for this"), false),
    ] {
        assert_eq!(takes(&tokens, &pair.token(kid, &claims())), good, "{kid:?}");
    }
}

#[test]
fn what_is_no_key_is_told_when_it_is_configured() {
    let weak = rsa_of(1024).to_public_key().to_public_key_pem(LineEnding::LF).expect("a form");
    let [rsa, ec, ed] = pairs();
    for (text, words) in [
        (String::new(), "no public key"),
        (ec.pem().replace("BEGIN PUBLIC", "BEGIN"), "no public key"),
        (weak, "2048 to 4096 bits, this one has 1024"),
        (rsa.private_pem(), "pkey -in FILE -pubout"),
        (ec.private_pem(), "pkey -in FILE -pubout"),
        ("-----BEGIN CERTIFICATE-----\n".to_owned(), "x509 -in FILE -noout -pubkey"),
    ] {
        let error = from_pem(&text).expect_err(&text);
        assert!(error.contains(words), "{error}");
    }
    let with = |jwk: Value, name: &str, value: Value| {
        let mut jwk = jwk;
        jwk[name] = value;
        json!({"keys": [ec.jwk(None), jwk]}).to_string()
    };
    let (r, e, d) = (rsa.jwk(Some("k")), ec.jwk(Some("k")), ed.jwk(Some("k")));
    for (set, words) in [
        ("[]".to_owned(), "is no JWK set"),
        (r#"{"keys": []}"#.to_owned(), "holds no key"),
        (json!({"keys": vec![d.clone(); 65]}).to_string(), "holds 65 keys"),
        (with(r.clone(), "d", json!("AA")), "key \"k\": is a private key"),
        (with(r.clone(), "kty", json!("oct")), "secret_file"),
        (with(r.clone(), "kty", Value::Null), "key \"k\": "),
        (with(r.clone(), "n", json!("AQAB")), "this one has 17"),
        (with(r.clone(), "e", json!("AQ")), "exponent"),
        (with(r.clone(), "e", json!("AQABAQABAQABAQAB")), "exponent"),
        (with(r, "n", json!("ä")), "not base64url"),
        (with(e.clone(), "y", json!("AQAB")), "no point of the curve"),
        (with(e.clone(), "x", e["y"].clone()), "no point of the curve"),
        (with(e, "x", Value::Null), "x is missing"),
        (with(d.clone(), "x", json!("AQAB")), "32 bytes, not 3"),
        (with(d, "x", json!("A".repeat(44))), "32 bytes, not 33"),
    ] {
        let error = from_jwks(&set).expect_err(&set);
        assert!(error.contains(words), "{set}: {error}");
    }
}
