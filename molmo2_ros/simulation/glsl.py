"""The shaders of egl.py (GLSL 3.30): the light of render.py, written for a GPU.

Every pass has the same vertices and a fragment shader of its own.
"""

from __future__ import annotations

from molmo2_ros.simulation.view import (
    FIRST_PART,
    FLOOR,
    GLOSS,
    SHADOW_OFFSET_M,
    SHADOW_SHARE,
    SHININESS_LOG2,
    TABLE,
    TEXTURE_PERIOD_M,
    WALL,
)

_VERSION = "#version 330\n"

_CONSTANTS = f"""
const int FLOOR = {FLOOR}, TABLE = {TABLE}, WALL = {WALL}, FIRST_PART = {FIRST_PART};
const float TEXTURE_PERIOD_M = {TEXTURE_PERIOD_M};
const float SHADOW_OFFSET_M = {SHADOW_OFFSET_M}, SHADOW_SHARE = {SHADOW_SHARE};
const float SHININESS = {2.0**SHININESS_LOG2}, GLOSS = {GLOSS};
"""

#: `centroid` keeps what is interpolated inside of its triangle at edges.
VERTEX = f"""{_VERSION}
uniform mat4 clip_from_world;
uniform mat4 world_from_item;
uniform int first_code;

in vec3 position;
in vec3 normal;
in float part;

centroid out vec3 world;
centroid out vec3 outward;
out float depth_m;
flat out int code;

void main() {{
    vec4 placed = world_from_item * vec4(position, 1.0);
    world = placed.xyz;
    outward = mat3(world_from_item) * normal;
    code = first_code + int(part);
    gl_Position = clip_from_world * placed;
    depth_m = gl_Position.w;
}}
"""

# Nothing but depth: what the lamp sees.
_SHADOW = f"{_VERSION}\nvoid main() {{}}\n"

# One depth for a whole item, so that a pixel that it covers several times is counted once.
_LAYER = f"""{_VERSION}
uniform float layer;

void main() {{
    gl_FragDepth = layer;
}}
"""

# Surface code and metres along the optical axis, at the centre of each pixel.
_TRUTH = f"""{_VERSION}
in float depth_m;
flat in int code;

out vec2 found;

void main() {{
    found = vec2(float(code), depth_m);
}}
"""

# Colours in 0..1: ambient, light from the camera, lamp with shadow, gloss on objects.
_COLOUR = f"""{_VERSION}{_CONSTANTS}
uniform vec3 eye;
uniform vec3 lamp;
uniform vec3 lamp_colour;
uniform float ambient;
uniform float headlight;
uniform vec2 table_turn;  // cosine and sine
uniform mat4 lamp_from_world;
uniform vec2 lamp_depth;  // depth in 0..1 is x + y / metres along the lamp's axis
uniform sampler2D floor_texture;
uniform sampler2D table_texture;
uniform sampler2D wall_texture;
uniform sampler2D palette;
uniform sampler2DShadow shadow;

centroid in vec3 world;
centroid in vec3 outward;
flat in int code;

out vec4 colour;

vec3 texture_colour(sampler2D pattern, vec2 place) {{
    // The middle of the first texel lies at the origin.
    vec2 half_texel = 0.5 / vec2(textureSize(pattern, 0));
    return textureLod(pattern, place / TEXTURE_PERIOD_M + half_texel, 0.0).rgb;
}}

vec3 surface_colour() {{
    mat2 turn = mat2(table_turn.x, -table_turn.y, table_turn.y, table_turn.x);
    if (code == FLOOR) return texture_colour(floor_texture, turn * world.xy);
    if (code == TABLE) return texture_colour(table_texture, turn * world.xy);
    if (code == WALL) return texture_colour(wall_texture, world.xz);
    return texelFetch(palette, ivec2(code, 0), 0).rgb;
}}

// Share of the lamp that is seen from about the pixel on the same plane: four places, as soft
// together as the shadows of rays, which are cast for every second pixel.
float light_share(vec3 place, vec3 across, vec3 along) {{
    if (any(lessThan(place.xy, vec2(0.0))) || any(greaterThan(place.xy, vec2(1.0)))) return 1.0;
    return 0.25 * (textureLod(shadow, place - 0.25 * across - 0.75 * along, 0.0)
        + textureLod(shadow, place + 0.75 * across - 0.25 * along, 0.0)
        + textureLod(shadow, place + 0.25 * across + 0.75 * along, 0.0)
        + textureLod(shadow, place - 0.75 * across + 0.25 * along, 0.0));
}}

void main() {{
    vec3 normal = normalize(outward);
    vec4 seen = lamp_from_world * vec4(world + SHADOW_OFFSET_M * normal, 1.0);
    vec2 spot = 0.5 + 0.5 * seen.xy / seen.w;
    vec3 place = vec3(spot, lamp_depth.x + lamp_depth.y / (SHADOW_SHARE * seen.w));
    vec3 across = dFdx(place), along = dFdy(place);

    vec3 view = normalize(eye - world);
    vec3 to_lamp = normalize(lamp - world);
    float facing = dot(view, normal), incidence = dot(to_lamp, normal);
    // A face turned away from the lamp is dark without a shadow; the floor is in nobody's.
    float lit = float(incidence >= 0.0);
    if (lit > 0.0 && code > FLOOR) lit = light_share(place, across, along);
    // A surface may be met from behind (inside of a mug): turn its normal to the viewer.
    float lamp_share = lit * clamp(incidence * sign(facing), 0.0, 1.0);
    vec3 mixed = surface_colour()
        * (ambient + headlight * abs(facing) + lamp_colour * lamp_share);
    if (code >= FIRST_PART) {{
        vec3 middle = normalize(to_lamp + view);
        mixed += GLOSS * lit * pow(abs(dot(middle, normal)), SHININESS);
    }}
    colour = vec4(mixed, 1.0);
}}
"""

#: Fragment shader of each pass.
FRAGMENTS = {"shadow": _SHADOW, "layer": _LAYER, "truth": _TRUTH, "colour": _COLOUR}
#: Samplers of the pass "colour", in the order of their units.
TEXTURES = ("floor_texture", "table_texture", "wall_texture", "palette", "shadow")
