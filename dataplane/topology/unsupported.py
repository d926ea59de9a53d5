"""What a topology file may say but the simulator does not do yet: refused, never ignored."""

from collections.abc import Iterator

from dataplane.topology.draft import Draft, Finding


def not_yet_supported(topology: Draft) -> Iterator[Finding]:
    """One finding for each feature that is switched on and not yet supported."""
    if topology.count("platform_services"):
        yield Finding(
            topology.at("platform_services"), "platform services are not yet supported; leave the key out"
        )
    for service in topology.children("private_link_services"):
        yield from _in_service(service)
    platforms = {platform.field("name") for platform in topology.children("platform_services")} - {None}
    for endpoint in topology.children("private_endpoints"):
        target = endpoint.field("target")
        if target in platforms:
            message = (
                f"{target} is a platform service, a target not yet supported; use a private link service"
            )
            yield Finding(endpoint.at("target"), message, target)
        if endpoint.count("security_rules"):
            message = "security rules are not yet supported; leave the key out"
            yield Finding(endpoint.at("security_rules"), message)


def _in_service(service: Draft) -> Iterator[Finding]:
    if service.field("enable_proxy_protocol"):
        message = "proxy protocol is not yet supported; write false"
        yield Finding(service.at("enable_proxy_protocol"), message, True)
    visibility = service.field("visibility")
    if visibility is not None and visibility != ("*",):
        message = 'a visibility other than ["*"] is not yet supported; leave the key out'
        yield Finding(service.at("visibility"), message, visibility)
