"""A client of the course's training API, written from its description alone."""

import requests


class CourseClient:
    """Three GET addresses, parameters and key in the query string."""

    def __init__(self, base_url, api_key):
        self.base_url = base_url
        self.api_key = api_key

    def get(self, address, **parameters):
        """The response, whatever its status."""
        return requests.get(
            f"{self.base_url}/{address}",
            params={**parameters, "api_key": self.api_key},
            timeout=60,
        )

    def loss(self, **configuration):
        """The response to a configuration."""
        return self.get("loss", **configuration)

    def total_flops_used(self):
        """The response about what was spent."""
        return self.get("total_flops_used")

    def previous_runs(self):
        """The list of what was asked."""
        response = self.get("previous_runs")
        assert response.status_code == 200
        return response.json()["previous_runs"]
