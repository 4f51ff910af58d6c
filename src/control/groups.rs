//! `/v1/groups…`: groups and their members. What the fields may hold is said here; what may be done
//! is decided by the group's home.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ringpost_core::command::GroupOperation;
use ringpost_core::error::Refusal;
use ringpost_core::event::{Answer, GroupRow, JoinPolicy, MemberRole, MemberRow, Operation as Ask};
use ringpost_core::ids::{GroupId, UserId};
use ringpost_core::limits::{ALIAS_BYTES_MAX, MEMBERS_CHANGED_MAX};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Shared;
use super::catalogue::{Answered, At, Operation, Route, created, ok};
use super::error::ApiError;
use super::types::{After, Change, Done, Group, Limit, Page, Text, User, Users};

/// What a group says of itself is read whenever somebody asks for it.
const PROFILE_BYTES_MAX: usize = 64 << 10;

/// Who may become a member.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum Policy {
    /// Whoever wants to.
    Open,
    /// Whom an admin accepts.
    Approve,
    /// Whom a member invites.
    Invite,
}

impl From<Policy> for JoinPolicy {
    fn from(policy: Policy) -> JoinPolicy {
        match policy {
            Policy::Open => JoinPolicy::Open,
            Policy::Approve => JoinPolicy::Approve,
            Policy::Invite => JoinPolicy::Invite,
        }
    }
}

impl From<JoinPolicy> for Policy {
    fn from(policy: JoinPolicy) -> Policy {
        match policy {
            JoinPolicy::Open => Policy::Open,
            JoinPolicy::Approve => Policy::Approve,
            JoinPolicy::Invite => Policy::Invite,
        }
    }
}

/// What a member may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum Role {
    Member,
    Admin,
    /// Given to another member, it is his, and the former owner an admin.
    Owner,
}

impl From<Role> for MemberRole {
    fn from(role: Role) -> MemberRole {
        match role {
            Role::Member => MemberRole::Member,
            Role::Admin => MemberRole::Admin,
            Role::Owner => MemberRole::Owner,
        }
    }
}

impl From<MemberRole> for Role {
    fn from(role: MemberRole) -> Role {
        match role {
            MemberRole::Member => Role::Member,
            MemberRole::Admin => Role::Admin,
            MemberRole::Owner => Role::Owner,
        }
    }
}

/// What a group says of itself.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
struct Profile {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    avatar: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    notice: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    creator: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    is_post: Option<bool>,
}

/// A group.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Group")]
pub struct Shown {
    id: String,
    owner: String,
    join_policy: Policy,
    /// How many there are.
    members: u32,
    /// Ms since 1970.
    created_ts: u64,
    dissolved: bool,
    #[serde(flatten)]
    profile: Profile,
}

/// A member.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Member {
    user: String,
    role: Role,
    /// What he is called in the group.
    alias: String,
    description: String,
    /// The record with which he came.
    joined_seq: u64,
}

/// Makes a group with its owner and first members.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateGroup {
    /// Without it the server makes one.
    id: Option<Group>,
    owner: User,
    members: Option<Users<{ MEMBERS_CHANGED_MAX - 1 }>>,
    join_policy: Option<Policy>,
    name: Option<Text<256>>,
    /// Where its picture is.
    avatar: Option<Text<2048>>,
    /// What members are to know.
    notice: Option<Text<4096>>,
    /// Who has made it, where that is not the owner.
    creator: Option<User>,
    /// It belongs to a post, as mingdao's clients have it.
    is_post: Option<bool>,
}

impl Operation for CreateGroup {
    const ROUTE: Route = Route::post("createGroup", "/v1/groups").answers(&[201]);
    type Answer = Shown;

    async fn perform(self, at: At) -> Result<Answered<Shown>, ApiError> {
        let group = self.id.map_or_else(new_id, |id| Ok(id.0))?;
        let profile = Profile {
            name: self.name.map(|text| text.0),
            avatar: self.avatar.map(|text| text.0),
            notice: self.notice.map(|text| text.0),
            creator: self.creator.map(|user| user.0.to_string()),
            is_post: self.is_post,
        };
        let create = GroupOperation::Create {
            owner: self.owner.0,
            members: self.members.unwrap_or_default().0,
            join_policy: self.join_policy.map(JoinPolicy::from).unwrap_or_default(),
            profile: serialized(&profile)?,
        };
        match at.shared.ask_group(&group, create).await? {
            Answer::Group { row, .. } => created(shown(&group, &row)?),
            answer => Err(refused(answer)),
        }
    }
}

/// A group, also one that is dissolved.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GetGroup {
    id: Group,
}

impl Operation for GetGroup {
    const ROUTE: Route = Route::get("getGroup", "/v1/groups/{id}");
    type Answer = Shown;

    async fn perform(self, at: At) -> Result<Answered<Shown>, ApiError> {
        let row = row_of(&at.shared, &self.id.0).await?;
        ok(shown(&self.id.0, &row)?)
    }
}

/// Changes a group: fields that are absent stay as they are, null clears them.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeGroup {
    id: Group,
    join_policy: Option<Policy>,
    #[serde(default)]
    name: Change<Text<256>>,
    #[serde(default)]
    avatar: Change<Text<2048>>,
    #[serde(default)]
    notice: Change<Text<4096>>,
    /// In whose name.
    #[expect(dead_code, reason = "the key decides, and events of this kind name nobody")]
    operator: Option<User>,
}

impl Operation for ChangeGroup {
    const ROUTE: Route = Route::patch("changeGroup", "/v1/groups/{id}");
    type Answer = Shown;

    async fn perform(self, at: At) -> Result<Answered<Shown>, ApiError> {
        let group = self.id.0;
        // Held until the write is answered: nobody else's change comes between.
        let _alone = at.shared.lock(group.slot()).lock().await;
        let mut profile = profile_of(&*row_of(&at.shared, &group).await?)?;
        self.name.map(|text| text.0).apply(&mut profile.name);
        self.avatar.map(|text| text.0).apply(&mut profile.avatar);
        self.notice.map(|text| text.0).apply(&mut profile.notice);
        let profile = Some(serialized(&profile)?);
        let join_policy = self.join_policy.map(JoinPolicy::from);
        match at.shared.ask_group(&group, GroupOperation::Change { join_policy, profile }).await? {
            Answer::Group { row, .. } => ok(shown(&group, &row)?),
            answer => Err(refused(answer)),
        }
    }
}

/// Dissolves a group.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DissolveGroup {
    id: Group,
    /// In whose name; the owner's without it.
    operator: Option<User>,
}

impl Operation for DissolveGroup {
    const ROUTE: Route = Route::delete("dissolveGroup", "/v1/groups/{id}");
    type Answer = Done;

    async fn perform(self, at: At) -> Result<Answered<Done>, ApiError> {
        let by = self.operator.map(|by| by.0);
        done(at.shared.ask_group(&self.id.0, GroupOperation::Dissolve { by }).await?)
    }
}

/// Makes users members; who is one already stays as he is.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AddMembers {
    id: Group,
    users: Users<MEMBERS_CHANGED_MAX>,
    /// In whose name; the owner's without it.
    operator: Option<User>,
}

impl Operation for AddMembers {
    const ROUTE: Route = Route::post("addMembers", "/v1/groups/{id}/members");
    type Answer = Page<Member>;

    async fn perform(self, at: At) -> Result<Answered<Page<Member>>, ApiError> {
        let (users, by) = (self.users.0, self.operator.map(|by| by.0));
        match at.shared.ask_group(&self.id.0, GroupOperation::Add { users, by }).await? {
            Answer::Members(members) => ok(Page::whole(members.iter().map(shown_member).collect())),
            answer => Err(refused(answer)),
        }
    }
}

/// Takes a member out of a group.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RemoveMember {
    id: Group,
    user: User,
    /// In whose name; the owner's without it, and the member's own when he leaves.
    operator: Option<User>,
}

impl Operation for RemoveMember {
    const ROUTE: Route = Route::delete("removeMember", "/v1/groups/{id}/members/{user}");
    type Answer = Done;

    async fn perform(self, at: At) -> Result<Answered<Done>, ApiError> {
        let (user, by) = (self.user.0, self.operator.map(|by| by.0));
        done(at.shared.ask_group(&self.id.0, GroupOperation::Remove { user, by }).await?)
    }
}

/// Changes what a member is called, and what he may do.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeMember {
    id: Group,
    user: User,
    #[serde(default)]
    alias: Change<Text<ALIAS_BYTES_MAX>>,
    #[serde(default)]
    description: Change<Text<ALIAS_BYTES_MAX>>,
    role: Option<Role>,
    /// In whose name.
    #[expect(dead_code, reason = "the key decides, and events of this kind name nobody")]
    operator: Option<User>,
}

impl Operation for ChangeMember {
    const ROUTE: Route = Route::patch("changeMember", "/v1/groups/{id}/members/{user}");
    type Answer = Member;

    async fn perform(self, at: At) -> Result<Answered<Member>, ApiError> {
        let text = |change: Change<Text<ALIAS_BYTES_MAX>>| match change {
            Change::Keep => None,
            Change::Clear => Some(String::new()),
            Change::Set(text) => Some(text.0),
        };
        let change = GroupOperation::ChangeMember {
            user: self.user.0,
            alias: text(self.alias),
            description: text(self.description),
            role: self.role.map(MemberRole::from),
        };
        match at.shared.ask_group(&self.id.0, change).await? {
            Answer::Members(members) => {
                let member = members.first();
                let gone = || ApiError::internal("a member that was changed is gone");
                ok(shown_member(member.ok_or_else(gone)?))
            }
            answer => Err(refused(answer)),
        }
    }
}

/// A group's members, in order of their ids.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListMembers {
    id: Group,
    after: Option<After<UserId>>,
    limit: Option<Limit<1000>>,
}

impl Operation for ListMembers {
    const ROUTE: Route = Route::get("listMembers", "/v1/groups/{id}/members");
    type Answer = Page<Member>;

    async fn perform(self, at: At) -> Result<Answered<Page<Member>>, ApiError> {
        let (after, limit) = (self.after.map(|after| after.0), Limit::or_usual(self.limit));
        match at.shared.ask_group(&self.id.0, GroupOperation::List { after, limit }).await? {
            Answer::Members(members) => {
                ok(Page::of(&members, limit, shown_member, |(user, _)| user))
            }
            answer => Err(refused(answer)),
        }
    }
}

impl Shared {
    async fn ask_group(
        &self,
        group: &GroupId,
        operation: GroupOperation,
    ) -> Result<Answer, ApiError> {
        self.ask(Ask::Group { group: group.clone(), operation }).await
    }
}

async fn row_of(shared: &Shared, group: &GroupId) -> Result<Box<GroupRow>, ApiError> {
    match shared.ask_group(group, GroupOperation::Get).await? {
        Answer::Group { row, .. } => Ok(row),
        answer => Err(refused(answer)),
    }
}

fn done(answer: Answer) -> Result<Answered<Done>, ApiError> {
    match answer {
        Answer::Done => ok(Done {}),
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
            "the owner stays owner and member until the group has another one",
        ),
        Refusal::TryAgain => ApiError::unavailable("try again"),
        _ => ApiError::internal("a group's home refused for a reason of messages"),
    }
}

fn serialized(profile: &Profile) -> Result<String, ApiError> {
    let profile = serde_json::to_string(profile)
        .map_err(|_| ApiError::internal("a group's profile is not JSON"))?;
    if profile.len() > PROFILE_BYTES_MAX {
        let message = format!("a group's fields may have {PROFILE_BYTES_MAX} bytes as JSON");
        return Err(ApiError::too_large(message));
    }
    Ok(profile)
}

fn profile_of(row: &GroupRow) -> Result<Profile, ApiError> {
    serde_json::from_str(&row.profile)
        .map_err(|_| ApiError::internal("a stored group's profile is not a JSON object"))
}

fn shown(group: &GroupId, row: &GroupRow) -> Result<Shown, ApiError> {
    Ok(Shown {
        id: group.to_string(),
        owner: row.owner.to_string(),
        join_policy: row.join_policy.into(),
        members: row.members,
        created_ts: row.created_ms,
        dissolved: row.closed_seq > 0,
        profile: profile_of(row)?,
    })
}

fn shown_member((user, row): &(UserId, MemberRow)) -> Member {
    Member {
        user: user.to_string(),
        role: row.role.into(),
        alias: row.alias.clone(),
        description: row.description.clone(),
        joined_seq: row.joined_seq,
    }
}

/// An id that nobody has chosen: 120 random bits.
fn new_id() -> Result<GroupId, ApiError> {
    let mut random = [0; 15];
    getrandom::fill(&mut random).map_err(|_| ApiError::internal("no random numbers"))?;
    let id = format!("g{}", URL_SAFE_NO_PAD.encode(random));
    GroupId::parse(&id).ok_or_else(|| ApiError::internal("a group id of ours is not one"))
}
