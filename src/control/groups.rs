//! `/v1/groups…`: groups and their members. What the fields may hold is said here; what may be done
//! is decided by the group's home.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ringpost_core::command::GroupOperation;
use ringpost_core::error::Refusal;
use ringpost_core::event::{Answer, GroupRow, JoinPolicy, MemberRole, MemberRow, Operation};
use ringpost_core::ids::{GroupId, UserId};
use ringpost_core::limits::{ALIAS_BYTES_MAX, MEMBERS_CHANGED_MAX};
use serde_json::{Map, Value, json};

use super::Shared;
use super::auth::{MayRead, MayWrite};
use super::error::ApiError;
use super::fields::{Fields, Parameters, Params, PathOf, user_id};

/// What a group says of itself is read whenever somebody asks for it.
const PROFILE_BYTES_MAX: usize = 64 << 10;
/// The texts of a profile and their lengths.
const TEXTS: [(&str, usize); 3] = [("name", 256), ("avatar", 2_048), ("notice", 4_096)];
/// Members in one page of a list, unless another number is asked for, and the most.
const PAGE: u32 = 100;
const PAGE_MAX: u32 = 1_000;

/// `POST /v1/groups`: makes a group (201) with its owner and first members.
pub async fn create(
    _: MayWrite,
    State(shared): State<Arc<Shared>>,
    mut fields: Fields,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let group = match fields.text("id", 64)? {
        Some(id) => group_id("id", &id)?,
        None => new_id()?,
    };
    let owner = fields.user("owner")?;
    let members = fields.users("members", MEMBERS_CHANGED_MAX - 1)?.unwrap_or_default();
    let join_policy = join_policy(&mut fields)?.unwrap_or_default();
    let mut profile = Map::new();
    put_texts(&mut fields, &mut profile)?;
    if let Some(creator) = fields.optional_user("creator")? {
        profile.insert("creator".to_owned(), json!(creator.as_str()));
    }
    if let Some(is_post) = fields.flag("is_post")? {
        profile.insert("is_post".to_owned(), json!(is_post));
    }
    fields.end()?;
    let profile = serialized(profile)?;
    let create = GroupOperation::Create { owner, members, join_policy, profile };
    match shared.ask_group(&group, create).await? {
        Answer::Group { row, .. } => Ok((StatusCode::CREATED, Json(shown(&group, &row)?))),
        answer => Err(refused(answer)),
    }
}

/// `GET /v1/groups/{id}`; a dissolved one too.
pub async fn read(
    _: MayRead,
    State(shared): State<Arc<Shared>>,
    id: PathOf<String>,
) -> Result<Json<Value>, ApiError> {
    let group = path_group(id)?;
    let row = row_of(&shared, &group).await?;
    Ok(Json(shown(&group, &row)?))
}

/// `PATCH /v1/groups/{id}`: absent fields stay, null clears.
pub async fn change(
    _: MayWrite,
    State(shared): State<Arc<Shared>>,
    id: PathOf<String>,
    mut fields: Fields,
) -> Result<Json<Value>, ApiError> {
    let group = path_group(id)?;
    let join_policy = join_policy(&mut fields)?;
    let _operator = fields.optional_user("operator")?;
    let mut texts = Map::new();
    put_texts(&mut fields, &mut texts)?;
    fields.end()?;
    // Held until the write is answered: nobody else's change comes between.
    let _alone = shared.lock(group.slot()).lock().await;
    let mut profile = profile_of(&*row_of(&shared, &group).await?)?;
    for (name, value) in texts {
        if value.is_null() {
            profile.remove(&name);
        } else {
            profile.insert(name, value);
        }
    }
    let profile = Some(serialized(profile)?);
    match shared.ask_group(&group, GroupOperation::Change { join_policy, profile }).await? {
        Answer::Group { row, .. } => Ok(Json(shown(&group, &row)?)),
        answer => Err(refused(answer)),
    }
}

/// `DELETE /v1/groups/{id}?operator=`: dissolves the group.
pub async fn dissolve(
    _: MayWrite,
    State(shared): State<Arc<Shared>>,
    id: PathOf<String>,
    params: Params,
) -> Result<Json<Value>, ApiError> {
    let group = path_group(id)?;
    let mut params = Parameters::of(params)?;
    let by = params.user("operator")?;
    params.end()?;
    done(shared.ask_group(&group, GroupOperation::Dissolve { by }).await?)
}

/// `POST /v1/groups/{id}/members`: who is a member already stays as he is.
pub async fn add(
    _: MayWrite,
    State(shared): State<Arc<Shared>>,
    id: PathOf<String>,
    mut fields: Fields,
) -> Result<Json<Value>, ApiError> {
    let group = path_group(id)?;
    let users = fields.users("users", MEMBERS_CHANGED_MAX)?;
    let users = users.ok_or_else(|| ApiError::invalid("users", "must be a list of user ids"))?;
    let by = fields.optional_user("operator")?;
    fields.end()?;
    match shared.ask_group(&group, GroupOperation::Add { users, by }).await? {
        Answer::Members(members) => Ok(Json(json!({ "items": shown_members(&members) }))),
        answer => Err(refused(answer)),
    }
}

/// `DELETE /v1/groups/{id}/members/{user}?operator=`.
pub async fn remove(
    _: MayWrite,
    State(shared): State<Arc<Shared>>,
    path: PathOf<(String, String)>,
    params: Params,
) -> Result<Json<Value>, ApiError> {
    let (group, user) = path_member(path)?;
    let mut params = Parameters::of(params)?;
    let by = params.user("operator")?;
    params.end()?;
    done(shared.ask_group(&group, GroupOperation::Remove { user, by }).await?)
}

/// `PATCH /v1/groups/{id}/members/{user}`: alias and description (null clears), role.
pub async fn change_member(
    _: MayWrite,
    State(shared): State<Arc<Shared>>,
    path: PathOf<(String, String)>,
    mut fields: Fields,
) -> Result<Json<Value>, ApiError> {
    let (group, user) = path_member(path)?;
    let alias = fields.text_or_null("alias", ALIAS_BYTES_MAX)?;
    let description = fields.text_or_null("description", ALIAS_BYTES_MAX)?;
    let role = match fields.text("role", 16)?.as_deref() {
        None => None,
        Some("member") => Some(MemberRole::Member),
        Some("admin") => Some(MemberRole::Admin),
        Some("owner") => Some(MemberRole::Owner),
        Some(_) => return Err(ApiError::invalid("role", "must be one of member, admin, owner")),
    };
    let _operator = fields.optional_user("operator")?;
    fields.end()?;
    let change = GroupOperation::ChangeMember { user, alias, description, role };
    match shared.ask_group(&group, change).await? {
        Answer::Members(members) => {
            let shown = shown_members(&members).pop();
            shown.map(Json).ok_or_else(|| ApiError::internal("a member that was changed is gone"))
        }
        answer => Err(refused(answer)),
    }
}

/// `GET /v1/groups/{id}/members?after=&limit=`.
pub async fn members(
    _: MayRead,
    State(shared): State<Arc<Shared>>,
    id: PathOf<String>,
    params: Params,
) -> Result<Json<Value>, ApiError> {
    let group = path_group(id)?;
    let (after, limit) = Parameters::of(params)?.page(opened, PAGE, PAGE_MAX)?;
    match shared.ask_group(&group, GroupOperation::List { after, limit }).await? {
        Answer::Members(members) => {
            let mut page = json!({ "items": shown_members(&members) });
            if let Some((last, _)) = members.last().filter(|_| members.len() == limit as usize) {
                page["next"] = closed(last);
            }
            Ok(Json(page))
        }
        answer => Err(refused(answer)),
    }
}

impl Shared {
    async fn ask_group(
        &self,
        group: &GroupId,
        operation: GroupOperation,
    ) -> Result<Answer, ApiError> {
        self.ask(Operation::Group { group: group.clone(), operation }).await
    }
}

async fn row_of(shared: &Shared, group: &GroupId) -> Result<Box<GroupRow>, ApiError> {
    match shared.ask_group(group, GroupOperation::Get).await? {
        Answer::Group { row, .. } => Ok(row),
        answer => Err(refused(answer)),
    }
}

fn done(answer: Answer) -> Result<Json<Value>, ApiError> {
    match answer {
        Answer::Done => Ok(Json(json!({}))),
        answer => Err(refused(answer)),
    }
}

/// A refusal as a status.
fn refused(answer: Answer) -> ApiError {
    let Answer::Refused(refusal) = answer else {
        return ApiError::internal("a group's home gave another answer than was asked for");
    };
    match refusal {
        Refusal::NoSuchGroup => ApiError::not_found("no such group, or it is dissolved"),
        Refusal::NotInGroup => ApiError::not_found("no such member"),
        Refusal::NoSuchUser => ApiError::conflict("a user of these does not exist"),
        Refusal::GroupExists => ApiError::conflict("there is, or was, a group with this id"),
        Refusal::GroupFull => ApiError::conflict("the group is full"),
        Refusal::NotPermitted => ApiError::not_permitted(
            "the owner stays owner and member until \
                                                          the group has another one",
        ),
        Refusal::TryAgain => ApiError::unavailable("try again"),
        _ => ApiError::internal("a group's home refused for a reason of messages"),
    }
}

fn join_policy(fields: &mut Fields) -> Result<Option<JoinPolicy>, ApiError> {
    Ok(match fields.text("join_policy", 16)?.as_deref() {
        None => None,
        Some("open") => Some(JoinPolicy::Open),
        Some("approve") => Some(JoinPolicy::Approve),
        Some("invite") => Some(JoinPolicy::Invite),
        Some(_) => {
            return Err(ApiError::invalid("join_policy", "must be one of open, approve, invite"));
        }
    })
}

/// Puts the given texts of a profile; null as null.
fn put_texts(fields: &mut Fields, profile: &mut Map<String, Value>) -> Result<(), ApiError> {
    for (name, bytes_max) in TEXTS {
        match fields.take(name) {
            None => {}
            Some(Value::Null) => {
                profile.insert(name.to_owned(), Value::Null);
            }
            Some(Value::String(text)) if text.len() <= bytes_max => {
                profile.insert(name.to_owned(), Value::String(text));
            }
            Some(_) => {
                let message = format!("must be a text of at most {bytes_max} bytes, or null");
                return Err(ApiError::invalid(name, message));
            }
        }
    }
    Ok(())
}

fn serialized(mut profile: Map<String, Value>) -> Result<String, ApiError> {
    profile.retain(|_, value| !value.is_null());
    let profile = Value::Object(profile).to_string();
    if profile.len() > PROFILE_BYTES_MAX {
        let message = format!("a group's fields may have {PROFILE_BYTES_MAX} bytes as JSON");
        return Err(ApiError::too_large(message));
    }
    Ok(profile)
}

fn profile_of(row: &GroupRow) -> Result<Map<String, Value>, ApiError> {
    serde_json::from_str(&row.profile)
        .map_err(|_| ApiError::internal("a stored group's profile is not a JSON object"))
}

fn shown(group: &GroupId, row: &GroupRow) -> Result<Value, ApiError> {
    let mut shown = profile_of(row)?;
    let policy = match row.join_policy {
        JoinPolicy::Open => "open",
        JoinPolicy::Approve => "approve",
        JoinPolicy::Invite => "invite",
    };
    let fields = [
        ("id", json!(group.as_str())),
        ("owner", json!(row.owner.as_str())),
        ("join_policy", json!(policy)),
        ("members", json!(row.members)),
        ("created_ts", json!(row.created_ms)),
        ("dissolved", json!(row.closed_seq > 0)),
    ];
    shown.extend(fields.map(|(name, value)| (name.to_owned(), value)));
    Ok(Value::Object(shown))
}

fn shown_members(members: &[(UserId, MemberRow)]) -> Vec<Value> {
    let shown = |(user, row): &(UserId, MemberRow)| {
        let role = match row.role {
            MemberRole::Member => "member",
            MemberRole::Admin => "admin",
            MemberRole::Owner => "owner",
        };
        let MemberRow { joined_seq, alias, description, .. } = row;
        json!({
            "user": user.as_str(), "role": role, "alias": alias, "description": description,
            "joined_seq": joined_seq,
        })
    };
    members.iter().map(shown).collect()
}

/// The user that a page begins behind, of the `next` of an earlier one.
pub(super) fn opened(after: &str) -> Result<UserId, ApiError> {
    let user = URL_SAFE_NO_PAD.decode(after).ok();
    let user = user.and_then(|user| String::from_utf8(user).ok());
    user.and_then(|user| UserId::parse(&user))
        .ok_or_else(|| ApiError::invalid("after", "must be the `next` of an earlier answer"))
}

/// The `next` of a page that ends with this user.
pub(super) fn closed(last: &UserId) -> Value {
    json!(URL_SAFE_NO_PAD.encode(last.as_str()))
}

/// An id that nobody has chosen: 120 random bits.
fn new_id() -> Result<GroupId, ApiError> {
    let mut random = [0; 15];
    getrandom::fill(&mut random).map_err(|_| ApiError::internal("no random numbers"))?;
    let id = format!("g{}", URL_SAFE_NO_PAD.encode(random));
    GroupId::parse(&id).ok_or_else(|| ApiError::internal("a group id of ours is not one"))
}

/// The group id in a field or in the path.
pub fn group_id(field: &'static str, id: &str) -> Result<GroupId, ApiError> {
    GroupId::parse(id).ok_or_else(|| {
        let wanted = "must be a group id: 1 to 64 of A-Z a-z 0-9 _ . @ : - and none of the \
                      reserved words";
        ApiError::invalid(field, wanted)
    })
}

fn path_group(id: PathOf<String>) -> Result<GroupId, ApiError> {
    let Path(id) = id.map_err(|_| ApiError::invalid("id", "is not percent-encoded UTF-8"))?;
    group_id("id", &id)
}

fn path_member(path: PathOf<(String, String)>) -> Result<(GroupId, UserId), ApiError> {
    let Path((group, user)) =
        path.map_err(|_| ApiError::invalid("id", "is not percent-encoded UTF-8"))?;
    Ok((group_id("id", &group)?, user_id("user", &user)?))
}
